"""Drawn pictures, their JPEGs, and crops of them by the decoder and by PIL."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from reproduce.data.loading import cropping
from reproduce.data.loading.cropping import Bytes, Integers, StoredImages

Box = tuple[int, int, int, int, bool]
SUBSAMPLINGS = ("4:4:4", "4:2:2", "4:2:0")


def picture(height: int, width: int, seed: int = 0) -> Image.Image:
    """Something like a photograph: edges, gradients and a little noise."""
    random = np.random.default_rng(seed)
    coarse = Image.fromarray(random.integers(0, 256, (5, 7, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), float)
    blocks = np.asarray(coarse.resize((width, height), Image.Resampling.NEAREST), float)
    noise = random.normal(0, 6, (height, width, 3))
    return Image.fromarray(np.clip(0.5 * smooth + 0.5 * blocks + noise, 0, 255).astype(np.uint8))


def jpeg(image: Image.Image, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", **{"quality": 90, **options})
    return buffer.getvalue()


def crop_all(
    contents: list[bytes],
    shapes: list[tuple[int, int]],
    boxes: list[Box],
    side: int,
    threads: int = 1,
    raw: bool = False,
) -> tuple[Bytes, dict[int, str]]:
    out = np.zeros((len(contents), side, side, 3), np.uint8)
    sizes = np.array([len(content) for content in contents])
    heights, widths = (np.ascontiguousarray(column) for column in np.array(shapes, np.int64).T)
    stored = StoredImages(
        content=np.frombuffer(b"".join(contents), np.uint8),
        offsets=np.cumsum(sizes) - sizes,
        sizes=sizes,
        heights=heights,
        widths=widths,
        is_jpeg=np.full(len(contents), not raw),
    )
    failed = cropping.crop(stored, np.array(boxes, np.int64), out, threads=threads)
    return out, failed


def crop_one(content: bytes, shape: tuple[int, int], box: Box, side: int, raw: bool = False) -> Bytes:
    out, failed = crop_all([content], [shape], [box], side, raw=raw)
    assert not failed
    return out[0]


def pil(image: Image.Image, box: Box, side: int) -> Integers:
    top, left, height, width, mirrored = box
    part = image.crop((left, top, left + width, top + height)).resize((side, side), Image.Resampling.BILINEAR)
    pixels = np.asarray(part, np.int64)
    return pixels[:, ::-1] if mirrored else pixels
