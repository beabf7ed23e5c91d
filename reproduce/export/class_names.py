"""Names of ImageNet's classes for people, in place of the WordNet ids by which prepared data call them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from reproduce.data.manifest import Manifest

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


def class_names(manifest: Manifest) -> tuple[str, ...]:
    """Return names for people of the classes of a prepared data set, in the order of the labels.

    Args:
        manifest: The manifest of the data set.

    Returns:
        The first synonym of the manifest's `class_names`, or all synonyms where classes have the same first one. In a
        manifest without them: torchvision's names if these are all of ImageNet's classes, Imagenette's if they are some
        of its, and otherwise the names by which the data call the classes.
    """
    names = manifest.classes
    if manifest.class_names:
        return _shortened(manifest.class_names)
    if len(names) == IMAGENET_CLASSES and names[0] == "n01440764" and names[-1] == "n15075141":
        from torchvision.models import GoogLeNet_Weights

        return tuple(GoogLeNet_Weights.IMAGENET1K_V1.meta["categories"])
    return tuple(IMAGENETTE[name] for name in names) if set(names) <= IMAGENETTE.keys() else names


def _shortened(names: Sequence[str]) -> tuple[str, ...]:
    first = [name.split(",")[0].strip() for name in names]
    counts = Counter(first)
    return tuple(short if counts[short] == 1 else name for short, name in zip(first, names, strict=True))
