"""Restart markers in JPEGs, of which a region can then be decoded on its own. Imports no torch, FFCV or numba."""

from __future__ import annotations

import ctypes
import functools

from reproduce.native import DECODER

GROWTH = 1 / 8  # limit on what markers may add to a JPEG; to a photograph they add -3 to 5 %


def with_restart_markers(jpeg: bytes) -> bytes | None:
    """A JPEG of the same pixels, bit for bit, that has restart markers at most 32 pixels apart and no metadata.

    `cropping.crop` decodes only the region of such a JPEG that its crop needs.

    Returns:
        The JPEG; None if the native decoder is not used, if libjpeg finds anything wrong with the input, if a
        progressive input is incomplete, or if the result would be more than an eighth larger than the input.
    """
    if not DECODER.implementation().native:
        return None
    capacity = int(len(jpeg) * (1 + GROWTH))
    out = ctypes.create_string_buffer(capacity)
    size = _library().with_restart_markers(jpeg, len(jpeg), out, capacity)
    return out.raw[:size] if size else None


@functools.cache
def _library() -> ctypes.CDLL:
    library = DECODER.load()
    library.with_restart_markers.argtypes = (ctypes.c_char_p, ctypes.c_int64, ctypes.c_char_p, ctypes.c_int64)
    library.with_restart_markers.restype = ctypes.c_int64
    return library
