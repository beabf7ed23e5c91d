"""Crops of images in FFCV files by crop.c and libjpeg-turbo. Imports no torch, FFCV or numba."""

from __future__ import annotations

import ctypes
import functools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from numpy.ctypeslib import ndpointer

from reproduce.native import DECODER

MESSAGE_SIZE = 256  # bytes; as in crop.c

Integers = npt.NDArray[np.int64]
Bytes = npt.NDArray[np.uint8]
Reals = npt.NDArray[np.float32]
ONES = np.ones(3, np.float32)


@dataclass(frozen=True, eq=False)
class StoredImages:
    """N images in an FFCV file, as the file's tables describe them."""

    content: Bytes
    """The whole file."""
    offsets: Integers
    """[N]: where an image's JPEG, or its pixels [height, width, 3], begins; in bytes."""
    sizes: Integers
    """[N], in bytes."""
    heights: Integers
    """[N], in pixels."""
    widths: Integers
    is_jpeg: npt.NDArray[np.bool_]
    """[N]; False for pixels."""

    def __len__(self) -> int:
        return len(self.offsets)

    def __post_init__(self) -> None:
        for name in ("sizes", "heights", "widths", "is_jpeg"):
            _check_shape(name, getattr(self, name), len(self))


def random_boxes(
    key: int,
    scale: tuple[float, float],
    ratio: tuple[float, float],
    flip: bool,
    indices: Integers,
    heights: Integers,
    widths: Integers,
) -> Integers:
    """The boxes of `decoding.RandomCrop.box` for N images, bit for bit.

    Returns:
        [N, 5]: top, left, height and width in pixels, and whether the crop is mirrored.
    """
    _check_shape("heights", heights, len(indices))
    _check_shape("widths", widths, len(indices))
    boxes = np.empty((len(indices), 5), np.int64)
    limits = np.array([*scale, *ratio, *map(math.log, ratio)])
    _library().random_boxes(key, limits, flip, len(indices), indices, heights, widths, boxes)
    return boxes


def crop(
    images: StoredImages,
    boxes: Integers,
    out: npt.NDArray[Any],
    *,
    scale: Reals = ONES,
    shift: Reals = ONES,
    threads: int = 1,
) -> dict[int, str]:
    """Crop N images, resize the crops to squares, and mirror those that are to be mirrored.

    Compared with PIL (decode, crop, resize BILINEAR), a pixel differs by at most 1 of 255 levels and an image's mean by
    at most 0.25, as long as the shorter side of the crop is less than three times the output's side. Larger crops are
    decoded at a reduced size, which keeps more contrast at edges than the triangle filter does: by at most 24 levels at
    a pixel and 4 in the mean of a drawn pattern; by 0.55 in the mean over photographs at 32 pixels.

    Args:
        images: The N images.
        boxes: [N, 5], see `random_boxes`.
        out: RGB [N or more, side, side, 3], of which the first N are written: uint8 for the pixels, float32 for
            pixel * scale + shift, or uint16 for the bits of the latter in bfloat16.
        scale: [3], one number for each channel.
        shift: [3], likewise.
        threads: Threads that decode at the same time.

    Returns:
        For each image that could not be cropped, its place among the N and the reason: the image is damaged, its bytes
        do not lie within the file, or its box does not lie within the image.
    """
    _check_shape("boxes", boxes, len(images), 5)
    if out.ndim != 4 or len(out) < len(images) or out.shape[1] != out.shape[2] or out.shape[1] < 1 or out.shape[3] != 3:
        raise ValueError(f"out: shape {out.shape} is not [{len(images)} or more, side, side, 3]")
    if out.dtype not in (np.uint8, np.uint16, np.float32) or not (out.flags.c_contiguous and out.flags.writeable):
        raise ValueError(f"out: {out.dtype}; needs writable, contiguous uint8, uint16 or float32")
    _check_shape("scale", scale, 3)
    _check_shape("shift", shift, 3)
    messages = np.zeros((len(images), MESSAGE_SIZE), np.uint8)
    _library().crop_batch(
        *(images.content, len(images.content), len(images), images.offsets, images.sizes),
        *(images.heights, images.widths, images.is_jpeg, boxes),
        *(out.shape[1], out.ctypes.data, out.itemsize, scale, shift, threads, messages),
    )
    failed = np.flatnonzero(messages[:, 0])
    return {int(place): messages[place].tobytes().split(b"\0")[0].decode(errors="replace") for place in failed}


def _check_shape(name: str, array: npt.NDArray[Any], *shape: int) -> None:
    if array.shape != shape:
        raise ValueError(f"{name}: shape {array.shape}; needs {shape}")


@functools.cache
def _library() -> ctypes.CDLL:
    library, number, count = DECODER.load(), ctypes.c_int, ctypes.c_int64
    integers, reals, doubles, octets, booleans = (
        ndpointer(dtype, flags="C_CONTIGUOUS") for dtype in (np.int64, np.float32, np.float64, np.uint8, np.bool_)
    )
    library.random_boxes.argtypes = (ctypes.c_uint64, doubles, number, count, *[integers] * 4)
    library.crop_batch.argtypes = (
        *(octets, count, count, *[integers] * 4, booleans, integers),
        *(number, ctypes.c_void_p, number, reals, reals, number, octets),
    )
    library.random_boxes.restype = library.crop_batch.restype = None
    return library
