"""Restart markers in JPEGs, which allow a decoder to decode a region on its own.

This module imports neither torch nor FFCV nor numba.
"""

from __future__ import annotations

import ctypes
import functools

from reproduce.native import DECODER, UnavailableError

GROWTH = 1 / 8  # largest permitted growth of a JPEG, as a share of its size; photographs change by -3 to +5 %


def with_restart_markers(jpeg: bytes) -> bytes | None:
    """Rewrite a JPEG with restart markers at most 32 pixels apart, without changing its decoded pixels.

    `loading.cropping.crop` decodes only the region of such a JPEG that its crop needs. Metadata such as EXIF and ICC
    profiles are dropped.

    Returns:
        The new JPEG. None if the native decoder is not selected or is unavailable, if libjpeg reports an error or a
        warning for the input, if the input is progressive and lacks coefficients, or if the new JPEG would be more than
        an eighth larger than the input.

    Raises:
        ImplementationError: The environment variable `DEEPER_DECODER` has an invalid value, or is `native` and the
            native decoder is unavailable.
    """
    if not _has_library():
        return None
    capacity = int(len(jpeg) * (1 + GROWTH))
    out = ctypes.create_string_buffer(capacity)
    size = _library().with_restart_markers(jpeg, len(jpeg), out, capacity)
    return out.raw[:size] if size else None


def _has_library() -> bool:
    """Whether this process writes markers. Since these change no pixel, it also does without the library if unasked."""
    if DECODER.requested():
        return DECODER.implementation().native
    try:
        DECODER.load()
    except UnavailableError:
        return False
    return True


@functools.cache
def _library() -> ctypes.CDLL:
    library = DECODER.load()
    library.with_restart_markers.argtypes = (ctypes.c_char_p, ctypes.c_int64, ctypes.c_char_p, ctypes.c_int64)
    library.with_restart_markers.restype = ctypes.c_int64
    return library
