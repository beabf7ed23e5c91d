"""Restart markers in JPEGs, which allow a decoder to decode a region on its own.

This module imports neither torch nor FFCV nor numba.
"""

from __future__ import annotations

import ctypes
import functools

from reproduce.native import DECODER

GROWTH = 1 / 8  # largest permitted growth of a JPEG, as a share of its size; photographs change by -3 to +5 %


def with_restart_markers(jpeg: bytes) -> bytes | None:
    """Rewrite a JPEG with restart markers at most 32 pixels apart, without changing its decoded pixels.

    `loading.cropping.crop` decodes only the region of such a JPEG that its crop needs. Metadata such as EXIF and ICC
    profiles are dropped.

    Returns:
        The new JPEG. None if this process does not use the native decoder, if libjpeg reports an error or a warning for
        the input, if the input is progressive and lacks coefficients, or if the new JPEG would be more than an eighth
        larger than the input.

    Raises:
        ImplementationError: The environment variable `DEEPER_DECODER` has an invalid value, or is `native` and the
            native decoder is unavailable.
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
