"""Checks of JPEGs, and restart markers in them, which allow a decoder to decode a region on its own.

This module imports neither torch nor FFCV nor numba.
"""

from __future__ import annotations

import ctypes
import functools

from reproduce.native import DECODER, UnavailableError

MESSAGE_SIZE = 200  # bytes; libjpeg's JMSG_LENGTH_MAX
TURBOJPEG = "libturbojpeg.so.0"
RGB_PIXELS, CMYK_PIXELS = 0, 11  # turbojpeg.h: TJPF_RGB, TJPF_CMYK
CMYK_SPACES = (3, 4)  # turbojpeg.h: TJCS_CMYK, TJCS_YCCK
GROWTH = 1 / 8  # largest permitted growth of a JPEG, as a share of its size; photographs change by -3 to +5 %


def damage_of(jpeg: bytes) -> str | None:
    """Read all codes of a JPEG, and return what libjpeg finds wrong with them; None if nothing is.

    Codes are damaged if decoders would make up pixels. Warnings that concern only metadata are ignored where the native
    decoder is available; elsewhere libturbojpeg, which FFCV needs, does not tell warnings apart.

    Raises:
        ImplementationError: As `with_restart_markers`.
    """
    if not DECODER.implementation().native:
        return turbojpeg_damage_of(jpeg)
    message = ctypes.create_string_buffer(MESSAGE_SIZE)
    _library().find_damage(jpeg, len(jpeg), message)
    return message.value.decode(errors="replace") or None


def turbojpeg_damage_of(jpeg: bytes) -> str | None:
    """Decode a JPEG with libturbojpeg, and return its first error or warning; None if there is none."""
    library = _turbojpeg()
    handle = library.tjInitDecompress()
    try:
        width, height, sampling, space = (ctypes.c_int() for _ in range(4))
        sides = (ctypes.byref(number) for number in (width, height, sampling, space))
        failed = library.tjDecompressHeader3(handle, jpeg, len(jpeg), *sides)
        if not failed:
            pixel_format, channels = (CMYK_PIXELS, 4) if space.value in CMYK_SPACES else (RGB_PIXELS, 3)
            pixels = ctypes.create_string_buffer(width.value * height.value * channels)
            failed = library.tjDecompress2(handle, jpeg, len(jpeg), pixels, width, 0, height, pixel_format, 0)
        return library.tjGetErrorStr2(handle).decode(errors="replace") if failed else None
    finally:
        library.tjDestroy(handle)


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
    library.find_damage.argtypes = (ctypes.c_char_p, ctypes.c_int64, ctypes.c_char_p)
    library.find_damage.restype = None
    return library


@functools.cache
def _turbojpeg() -> ctypes.CDLL:
    library, pointer, number, size = ctypes.CDLL(TURBOJPEG), ctypes.c_void_p, ctypes.c_int, ctypes.c_ulong
    library.tjInitDecompress.restype = pointer
    library.tjDestroy.argtypes = (pointer,)
    library.tjGetErrorStr2.argtypes = (pointer,)
    library.tjGetErrorStr2.restype = ctypes.c_char_p
    library.tjDecompressHeader3.argtypes = (pointer, ctypes.c_char_p, size, *[ctypes.POINTER(number)] * 4)
    library.tjDecompress2.argtypes = (pointer, ctypes.c_char_p, size, ctypes.c_char_p, *[number] * 5)
    return library
