"""From images to FFCV files with a manifest (`writing.prepare`), and from these to batches (`reproduce.data.loading`).

A folder, an archive or a named data set comes in; FFCV files, a manifest, and batches go out. Whatever needs torch or
FFCV is imported from its own module, so that planning, which only reads manifests, starts quickly.
"""

from __future__ import annotations

from reproduce.data.manifest import DataError, Manifest, PrepareOptions, SplitManifest, load_manifest, verify
from reproduce.data.sources import Source, fashion_mnist, folder, imagenet, imagenette, source_from, synthetic, tar

__all__ = [
    "DataError",
    "Manifest",
    "PrepareOptions",
    "Source",
    "SplitManifest",
    "fashion_mnist",
    "folder",
    "imagenet",
    "imagenette",
    "load_manifest",
    "source_from",
    "synthetic",
    "tar",
    "verify",
]
