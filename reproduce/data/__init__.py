"""Data: sources of images, FFCV files with a manifest, and loaders whose augmentation a seed determines.

A folder, an archive or a named data set comes in; prepared FFCV files with a manifest go out, and batches from them
(`reproduce.data.loading`). What needs torch or FFCV is imported from its own module, so that planning, which only reads
manifests, stays quick.
"""

from __future__ import annotations

from reproduce.data.manifest import DataError, Manifest, PrepareOptions, SplitManifest, load_manifest, verify
from reproduce.data.sources import Source, fashion_mnist, folder, imagenette, source_from, synthetic, tar

__all__ = [
    "DataError",
    "Manifest",
    "PrepareOptions",
    "Source",
    "SplitManifest",
    "fashion_mnist",
    "folder",
    "imagenette",
    "load_manifest",
    "source_from",
    "synthetic",
    "tar",
    "verify",
]
