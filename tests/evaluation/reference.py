"""Reference for 144 crops (Szegedy et al. 2014, section 7) and 10 crops (Krizhevsky et al. 2012).

It takes one crop at a time, with PIL and torchvision's transforms.
"""

from __future__ import annotations

from PIL import Image
from torchvision.transforms.functional import crop, hflip, resize


def crops_144(picture: Image.Image, resolution: int) -> list[Image.Image]:
    """All 144 crops, the mirrored ones in the second half."""
    found = []
    for side in (256, 288, 320, 352):
        for square in squares(resize(picture, [round(side * resolution / 224)])):
            found += [*five(square, resolution), resize(square, [resolution, resolution])]
    return found + [hflip(one) for one in found]


def crops_10(picture: Image.Image, resolution: int) -> list[Image.Image]:
    _, centre, _ = squares(resize(picture, [round(256 * resolution / 224)]))
    found = five(centre, resolution)
    return found + [hflip(one) for one in found]


def squares(picture: Image.Image) -> list[Image.Image]:
    """Left, centre and right of a landscape, top, centre and bottom of a portrait."""
    width, height = picture.size
    side = min(width, height)
    if width >= height:
        return [crop(picture, 0, left, side, side) for left in (0, (width - side) // 2, width - side)]
    return [crop(picture, top, 0, side, side) for top in (0, (height - side) // 2, height - side)]


def five(square: Image.Image, resolution: int) -> list[Image.Image]:
    """Four corners and the centre."""
    margin = square.width - resolution
    places = [(0, 0), (0, margin), (margin, 0), (margin, margin), (margin // 2, margin // 2)]
    return [crop(square, top, left, resolution, resolution) for top, left in places]
