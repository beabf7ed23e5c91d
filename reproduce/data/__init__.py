"""Preparing data sets (`writing.prepare`) and loading batches from prepared ones (`reproduce.data.loading`).

A folder, an archive or a named data set comes in. Preparing it makes one FFCV file per split and a manifest, from which
the loaders make batches. This module imports neither torch nor FFCV, so that planning, which only reads manifests,
starts quickly; import `writing` and `loading` by their own names.
"""

from __future__ import annotations

from reproduce.data.manifest import DamagedDataError, DataError, Manifest, PrepareOptions, SplitManifest, load_manifest
from reproduce.data.sources import Source, fashion_mnist, folder, imagenet, imagenette, source_from, synthetic, tar
from reproduce.data.verification import verify, verify_changed

__all__ = [
    "DamagedDataError",
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
    "verify_changed",
]
