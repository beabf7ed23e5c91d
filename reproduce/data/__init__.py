"""Data: sources, FFCV files with a manifest, and loaders whose augmentation a seed determines.

What needs torch or FFCV (`prepare`, the loaders, `Normalise`) is imported at first use, so that planning, which only
reads manifests, stays quick.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from reproduce.data.manifest import DataError, Manifest, PrepareOptions, SplitManifest, load_manifest, verify
from reproduce.data.sources import Source, fashion_mnist, folder, imagenette, source_from, synthetic, tar

if TYPE_CHECKING:
    from reproduce.data.loading.loaders import TrainLoader, ValLoader
    from reproduce.data.loading.normalise import Normalise
    from reproduce.data.writing import prepare

__all__ = [
    "DataError",
    "Manifest",
    "Normalise",
    "PrepareOptions",
    "Source",
    "SplitManifest",
    "TrainLoader",
    "ValLoader",
    "fashion_mnist",
    "folder",
    "imagenette",
    "load_manifest",
    "prepare",
    "source_from",
    "synthetic",
    "tar",
    "verify",
]

_HEAVY = {"TrainLoader": "loaders", "ValLoader": "loaders", "Normalise": "normalise", "prepare": "writing"}


def __getattr__(name: str) -> Any:
    if name not in _HEAVY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HEAVY[name]}"), name)
