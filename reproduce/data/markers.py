"""JPEGs of which a part can be decoded alone, by parts.c. Imports no torch, FFCV or numba."""

from __future__ import annotations

import ctypes
import functools

from reproduce.native import DECODER

GROWTH = 1 / 8  # of a JPEG at most; photographs grow by -3 to 5 %


def with_restart_markers(jpeg: bytes) -> bytes | None:
    """The same pixels, bit for bit, with restart markers at most 32 pixels apart; without metadata.

    `cropping.crop` decodes of such a JPEG only what its crop needs. None: where the native decoder is not
    used, and of a JPEG that is damaged, decodes otherwise than its coefficients say, or would grow by over an eighth.
    """
    if not DECODER.choice().native:
        return None
    out = ctypes.create_string_buffer(int(len(jpeg) * (1 + GROWTH)))
    size = _native().with_restart_markers(jpeg, ctypes.c_int64(len(jpeg)), out, ctypes.c_int64(len(out)))
    return out.raw[:size] if size else None


@functools.cache
def _native() -> ctypes.CDLL:
    library = DECODER.library()
    library.with_restart_markers.restype = ctypes.c_int64
    return library
