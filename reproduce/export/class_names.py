"""Names of ImageNet's classes for people, in place of the WordNet ids by which prepared data call them."""

from __future__ import annotations

from collections.abc import Sequence

IMAGENETTE = {
    "n01440764": "tench",
    "n02102040": "English springer",
    "n02979186": "cassette player",
    "n03000684": "chain saw",
    "n03028079": "church",
    "n03394916": "French horn",
    "n03417042": "garbage truck",
    "n03425413": "gas pump",
    "n03445777": "golf ball",
    "n03888257": "parachute",
}
"""Imagenette's classes (github.com/fastai/imagenette)."""
IMAGENET_CLASSES = 1000


def class_names(classes: Sequence[str]) -> tuple[str, ...]:
    """Return names for people of the classes of a prepared data set.

    Args:
        classes: The names in the manifest, in the order of the labels.

    Returns:
        torchvision's names if these are all of ImageNet's classes, and Imagenette's if they are some of its. Otherwise
        the names of the manifest: no file at hand says what other WordNet ids mean.
    """
    names = tuple(classes)
    if len(names) == IMAGENET_CLASSES and names[0] == "n01440764" and names[-1] == "n15075141":
        from torchvision.models import GoogLeNet_Weights

        return tuple(GoogLeNet_Weights.IMAGENET1K_V1.meta["categories"])
    return tuple(IMAGENETTE[name] for name in names) if set(names) <= IMAGENETTE.keys() else names
