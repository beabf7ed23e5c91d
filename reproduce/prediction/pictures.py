"""Finds image files, and makes of each the pixels that validation would show to the network."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from reproduce.data.encoding import JPG, Pixels, UnreadableImageError, encode
from reproduce.data.loading.cropping import StoredImages, crop
from reproduce.data.loading.decoding import CentralCrop
from reproduce.data.manifest import PrepareOptions
from reproduce.data.reading.trees import IMAGE_SUFFIXES
from reproduce.errors import UserError


def find_images(names: Iterable[str]) -> list[Path]:
    """List the image files that names stand for, each file once.

    Args:
        names: Paths of files; of folders, which stand for the images in them and below, sorted; or patterns with `*`,
            `?`, `[...]` and `**`.

    Raises:
        UserError: Nothing is there, or a folder holds no images by their names.
    """
    found: dict[Path, None] = {}
    for name in names:
        path = Path(name)
        if os.path.isdir(path):
            files = [file for file in sorted(path.rglob("*")) if _is_image(file.relative_to(path)) and file.is_file()]
            if not files:
                raise UserError(f"image: {name!r} holds no images; name a folder with JPEGs, PNGs or the like")
        elif os.path.isfile(path):
            files = [path]
        else:
            files = [Path(match) for match in sorted(glob.glob(name, recursive=True)) if os.path.isfile(match)]
            if not files:
                raise UserError(
                    f"image: {name!r}: no such file; name image files, folders, or patterns such as '*.jpg'"
                )
        found.update(dict.fromkeys(files))
    return list(found)


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES and not any(part.startswith(".") for part in path.parts)


def validation_pixels(path: Path, options: PrepareOptions, *, resolution: int, share: float) -> Pixels:
    """Read an image, store it as preparing does, and crop it as validation does.

    For an image of the data set, the result is bit for bit what the validation loader yields.

    Args:
        path: The image file. A rotation in its EXIF data is not applied, as in prepared data.
        options: The options with which the run's data were prepared.
        resolution: Side of the result, in pixels.
        share: Side of the central crop, as a share of the image's shorter side.

    Returns:
        uint8 [resolution, resolution, 3], RGB.

    Raises:
        UnreadableImageError: The file cannot be read, or is no image, or a damaged one.
        UnavailableError: The native decoder is unavailable on this machine.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UnreadableImageError(error.strerror or str(error)) from error
    image = encode(content, str(path), options, markers=False)
    height, width = (np.array([side], np.int64) for side in (image.height, image.width))
    stored = StoredImages(
        content=np.frombuffer(image.data, np.uint8),
        offsets=np.zeros(1, np.int64),
        sizes=np.array([len(image.data)], np.int64),
        heights=height,
        widths=width,
        is_jpeg=np.array([image.mode == JPG]),
    )
    pixels = np.empty((1, resolution, resolution, 3), np.uint8)
    boxes = CentralCrop(share).boxes(0, np.zeros(1, np.int64), height, width)
    if failed := crop(stored, boxes, pixels):
        raise UnreadableImageError(failed[0])
    result: Pixels = pixels[0]
    return result
