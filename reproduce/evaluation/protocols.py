"""The protocols' names and numbers, and what the paper reports of them. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Protocol = Literal["single", "10-crop", "144-crop"]

CROPS: dict[Protocol, int] = {"single": 1, "10-crop": 10, "144-crop": 144}
"""Crops of an image, mirrored ones included.

single: the run's own validation: the central square of `val_crop` of the shorter side.
10-crop: shorter side 256; four corners and centre of the central square, mirrored (Krizhevsky et al. 2012, section
4.1; P names 10 crops in Table 3 and does not say which).
144-crop: shorter sides 256, 288, 320, 352; left, centre and right squares (portrait: top, centre, bottom); of each the
four corners, the centre and the whole square resized; mirrored (P section 7).
"""

INPUT = 224
SIDES: dict[Protocol, tuple[int, ...]] = {"10-crop": (256,), "144-crop": (256, 288, 320, 352)}
"""Shorter sides for crops of `INPUT` pixels."""


def sides(protocol: Protocol, resolution: int) -> tuple[int, ...]:
    """Shorter sides for crops of `resolution` pixels, in proportion to those for 224, rounded; () for single."""
    return tuple(round(side * resolution / INPUT) for side in SIDES.get(protocol, ()))


@dataclass(frozen=True)
class PaperRow:
    """A row of P Table 3; ILSVRC 2014 validation, 50 000 images, 1000 classes."""

    models: int
    crops: int
    top5_error: float
    """Per cent."""


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


def is_imagenet(classes: int, images: int) -> bool:
    """Whether a validation set has the size of ILSVRC 2014's, so that its errors stand beside published ones."""
    return (classes, images) == (1000, 50_000)
