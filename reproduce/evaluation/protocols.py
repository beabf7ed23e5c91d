"""Define the evaluation protocols, their crops, and the results of Szegedy et al. 2014 with them. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Protocol = Literal["single", "10-crop", "144-crop"]

CROPS: dict[Protocol, int] = {"single": 1, "10-crop": 10, "144-crop": 144}
"""Number of crops of an image in each protocol, mirrored ones included.

single: The run's own validation crop, see `RecipeConfig.val_crop`.
10-crop: The image is resized to a shorter side of 256 pixels. Crops are the four corners and the centre of its central
    square, and their mirror images (Krizhevsky et al. 2012, section 4.1). Table 3 of Szegedy et al. 2014 lists 10 crops
    without defining them.
144-crop: The image is resized to shorter sides of 256, 288, 320 and 352 pixels. Of each size, the left, centre and
    right squares are taken (top, centre and bottom of a portrait). Crops are the four corners, the centre and the
    resized whole of each square, and their mirror images (Szegedy et al. 2014, section 7).
"""

INPUT = 224
SIDES: dict[Protocol, tuple[int, ...]] = {"10-crop": (256,), "144-crop": (256, 288, 320, 352)}
"""Shorter sides, in pixels, to which an image is resized for crops of `INPUT` pixels."""


def sides(protocol: Protocol, resolution: int) -> tuple[int, ...]:
    """Return the shorter sides, in pixels, to which a protocol resizes an image.

    Args:
        protocol: The protocol.
        resolution: Side of a crop, in pixels. The sides are in proportion to it and are those of `SIDES` for 224.

    Returns:
        One side for each scale, ascending. Empty for "single".
    """
    return tuple(round(side * resolution / INPUT) for side in SIDES.get(protocol, ()))


@dataclass(frozen=True)
class PaperRow:
    """A row of Table 3 of Szegedy et al. 2014, on the 50 000 validation images of ILSVRC 2014 with 1000 classes."""

    models: int
    """Number of networks in the ensemble."""
    crops: int
    """Number of crops of an image."""
    top5_error: float
    """Top-5 error in per cent."""


PAPER = (
    PaperRow(1, 1, 10.07),
    PaperRow(1, 10, 9.15),
    PaperRow(1, 144, 7.89),
    PaperRow(7, 1, 8.09),
    PaperRow(7, 10, 7.62),
    PaperRow(7, 144, 6.67),
)
PUBLISHED = "1378be20"
"""Start of the SHA-256 of torchvision's googlenet-1378be20.pth, the weights IMAGENET1K_V1."""


def is_imagenet(data: Mapping[str, Any]) -> bool:
    """Check whether a validation set looks like ILSVRC 2014's: 50 000 images in 1000 classes in ImageNet's order.

    Only then are its errors comparable with published ones. The images themselves are not compared.

    Args:
        data: The entry `data` of an `evaluation.json`: `classes` and `images` are numbers, and `by_wordnet_id` says
            whether the classes are in ImageNet's order. Evaluations before 2026-11-27 lack it and go by the numbers.
    """
    return (data["classes"], data["images"]) == (1000, 50_000) and bool(data.get("by_wordnet_id", True))
