"""Encoding one image for storage. Every worker process imports this module, so it imports no torch."""

from __future__ import annotations

import io
import struct
import zlib
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from reproduce.data.manifest import PrepareOptions
from reproduce.data.markers import damage_of, with_restart_markers

Pixels = npt.NDArray[np.uint8]

JPG, RAW = 0, 1  # FFCV's RGBImageField modes
RAW_SIDE = 96  # pixels; up to this side raw pixels take little more space than a JPEG and need no decoding
LARGEST_SIDE = 2**16 - 1  # FFCV stores sides as uint16
LARGEST_STORED = 1 << 25  # bytes of one stored image; also the page size of the FFCV files

OF_PIXELS = (b"IHDR", b"PLTE", b"IDAT")
"""Chunks of a PNG that determine its pixels."""
DECODING_ERRORS = (
    *(OSError, EOFError, SyntaxError, ValueError, OverflowError, struct.error, zlib.error, LookupError, TypeError),
    *(AttributeError, AssertionError, NotImplementedError, RecursionError, Image.DecompressionBombError),
)
"""Errors that PIL's decoders raise for damaged files."""


class Encoded(NamedTuple):
    """An image in the format in which an FFCV file stores it."""

    mode: int
    """`JPG` or `RAW`."""
    height: int
    """Height in pixels."""
    width: int
    """Width in pixels."""
    data: bytes
    """A JPEG without restart markers of ours, or RGB pixels, uint8 [height, width, 3]."""
    marked: bytes | None = None
    """The same JPEG with restart markers, see `with_restart_markers`; None if there is no such version."""

    @property
    def stored(self) -> bytes:
        """The bytes that are written to the file: `marked`, or `data` if `marked` is None."""
        return self.data if self.marked is None else self.marked


class UnreadableImageError(Exception):
    """Raised if an image cannot be decoded in full or cannot be stored. The message says why."""


def encode(content: bytes | Pixels, name: str, options: PrepareOptions, markers: bool = True) -> Encoded:
    """Decode an image, shrink it if necessary, and encode it for storage.

    Every image is decoded in full, since FFCV's decoder would not report damage later, and all codes of a JPEG are
    checked, since PIL makes up the pixels of damaged ones. An RGB JPEG that is stored as a
    JPEG and is not shrunk is not encoded again, so it keeps its pixels.

    Args:
        content: The content of an image file, or decoded pixels, uint8 [H, W, 3] or [H, W].
        name: Name of the image. `write_mode` "proportion" chooses the format by it.
        options: Format, size and quality of the stored image.
        markers: Also make a version of a JPEG with restart markers, `Encoded.marked`.

    Raises:
        UnreadableImageError: The image is damaged, has a side longer than 65535 pixels, or would take more than 32 MiB
            in the file.
    """
    try:
        pixels, is_rgb_jpeg = _decode(content)
    except DECODING_ERRORS as error:
        reason = "not an image" if isinstance(error, UnidentifiedImageError) else str(error)
        raise UnreadableImageError(reason) from error
    height, width = pixels.shape[:2]
    limit = options.max_resolution
    if limit is not None and min(height, width) > limit:
        scale = limit / min(height, width)
        size = (max(limit, round(width * scale)), max(limit, round(height * scale)))
        pixels = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA).astype(np.uint8)
        is_rgb_jpeg = False
        height, width = pixels.shape[:2]
    if max(height, width) > LARGEST_SIDE:
        raise UnreadableImageError(f"{width}x{height} pixels; FFCV stores sides up to {LARGEST_SIDE}")
    if _as_raw(height, width, name, options):
        encoded = Encoded(RAW, height, width, np.ascontiguousarray(pixels).tobytes())
    elif is_rgb_jpeg and isinstance(content, bytes):
        encoded = Encoded(JPG, height, width, content)
    else:
        quality = [int(cv2.IMWRITE_JPEG_QUALITY), options.jpeg_quality]
        encoded = Encoded(JPG, height, width, cv2.imencode(".jpg", pixels[..., ::-1], quality)[1].tobytes())
    if markers and encoded.mode == JPG:
        encoded = encoded._replace(marked=with_restart_markers(encoded.data))
    if len(encoded.stored) > LARGEST_STORED:
        raise UnreadableImageError(f"{len(encoded.stored)} bytes stored, at most {LARGEST_STORED}; use max_resolution")
    return encoded


def _decode(content: bytes | Pixels) -> tuple[Pixels, bool]:
    """Decode an image to RGB pixels, uint8 [H, W, 3].

    Returns:
        The pixels, and whether the content is the file of a JPEG that decodes to RGB.
    """
    if not isinstance(content, bytes):
        return (content if content.ndim == 3 else np.repeat(content[..., None], 3, axis=2)), False
    with Image.open(io.BytesIO(content)) as image:
        image.load()
        if image.format in ("JPEG", "MPO") and (damage := damage_of(content)):
            raise UnreadableImageError(damage)
        if image.format == "PNG" and (damage := _png_damage(content)):
            raise UnreadableImageError(damage)
        # PIL would clip integers of more than 8 bits rather than scale them. PNG and PPM have 16 in its mode I.
        if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
            return np.repeat((np.asarray(image) >> 8).astype(np.uint8)[..., None], 3, axis=2), False
        if image.mode in ("I", "F"):
            kind = "floating-point numbers" if image.mode == "F" else "integers with a sign or of 32 bits"
            raise ValueError(f"its pixels are {kind}, and what is white is unknown; convert it to 8 or 16 bits")
        return np.asarray(image.convert("RGB")), image.format == "JPEG" and image.mode == "RGB"


def _png_damage(content: bytes) -> str | None:
    """Compare the chunks of a PNG that make up its pixels with their checksums, which PIL does not do of all of them.

    Returns:
        What is wrong; None if nothing is. Damage of metadata is ignored.
    """
    place = 8  # behind the signature
    while place + 12 <= len(content):
        size, kind = struct.unpack_from(">I4s", content, place)
        data = content[place + 4 : place + 8 + size]
        if kind in OF_PIXELS and content[place + 8 + size :][:4] != struct.pack(">I", zlib.crc32(data)):
            return f"its chunk {kind.decode()} does not have its CRC-32"
        place += 12 + size
    return None


def _as_raw(height: int, width: int, name: str, options: PrepareOptions) -> bool:
    if options.write_mode == "auto":
        return max(height, width) <= RAW_SIDE
    if options.write_mode == "proportion":
        return zlib.crc32(name.encode(errors="surrogateescape")) / 2**32 >= options.compress_probability
    return options.write_mode == "raw"
