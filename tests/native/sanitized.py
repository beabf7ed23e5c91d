"""Drives the decoder and the marker writer with valid, truncated and mutated JPEGs; run by test_sanitizers.py.

A process of its own, with the sanitizers' runtime loaded first. Every image lies in memory of its own, so that a read
beyond it is an error.
"""

from __future__ import annotations

import io
import sys

import numpy as np
from PIL import Image

from reproduce.data.loading import cropping
from reproduce.data.loading.cropping import StoredImages
from reproduce.data.markers import with_restart_markers

SIDES = (1, 7, 32, 100)
SHAPES = ((1, 1), (9, 5), (60, 83), (203, 331))


def jpegs(random: np.random.Generator) -> list[tuple[bytes, tuple[int, int]]]:
    """Valid JPEGs of every kind that the decoder takes, with and without restart markers."""
    found = []
    for shape in SHAPES:
        coarse = Image.fromarray(random.integers(0, 256, (4, 5, 3), dtype=np.uint8)).resize(shape[::-1])
        for options in (
            {"subsampling": "4:4:4"},
            {"subsampling": "4:2:2"},
            {"subsampling": "4:2:0"},
            {"subsampling": "4:2:0", "progressive": True},
            {"subsampling": "4:2:0", "restart_marker_blocks": 3},
        ):
            for mode in ("RGB", "L", "CMYK"):
                buffer = io.BytesIO()
                coarse.convert(mode).save(buffer, "JPEG", **options)
                content = buffer.getvalue()
                found.append((content, shape))
                if (marked := with_restart_markers(content)) is not None:
                    found.append((marked, shape))
    return found


def damaged(content: bytes, random: np.random.Generator) -> bytes:
    """The JPEG with a few bytes changed, most of them in its headers, and perhaps cut short."""
    changed = bytearray(content)
    for _ in range(random.integers(1, 5)):
        end = len(changed) if random.random() < 0.5 else min(len(changed), 650)
        changed[random.integers(end)] = random.choice([0, 1, 0xFF, random.integers(256)])
    return bytes(changed[: random.integers(len(changed)) + 1] if random.random() < 0.3 else changed)


def crop(
    content: bytes, shape: tuple[int, int], boxes: np.ndarray, side: int, is_jpeg: bool = True, **table: int
) -> int:
    """Crop one image, once for each box; returns how many crops were refused."""
    count = len(boxes)
    columns = {"offsets": 0, "sizes": len(content), "heights": shape[0], "widths": shape[1], **table}
    images = StoredImages(
        content=np.array(np.frombuffer(content, np.uint8)),
        is_jpeg=np.full(count, is_jpeg),
        **{name: np.full(count, value, np.int64) for name, value in columns.items()},
    )
    dtype = (np.uint8, np.uint16, np.float32)[side % 3]
    return len(cropping.crop(images, boxes, np.empty((count, side, side, 3), dtype), threads=2))


def boxes_in(shape: tuple[int, int], count: int, seed: int) -> np.ndarray:
    numbers = np.arange(count)
    sides = (np.full(count, side) for side in shape)
    return cropping.random_boxes(seed, (0.02, 1.0), (1 / 2, 2.0), True, numbers, *sides)


def main(mutations: int) -> None:
    random = np.random.default_rng(0)
    valid = jpegs(random)
    for number, (content, shape) in enumerate(valid):
        boxes = np.concatenate([[[0, 0, *shape, 0]], boxes_in(shape, 4, number)])
        for side in SIDES:
            crop(content, shape, boxes, side)
    for number in range(mutations):
        content, shape = valid[random.integers(len(valid))]
        content = damaged(content, random)
        with_restart_markers(content)
        crop(content, shape, boxes_in(shape, 3, number), int(random.choice(SIDES)))
    for shape in SHAPES:
        pixels = random.integers(0, 256, (*shape, 3), dtype=np.uint8).tobytes()
        boxes = np.concatenate([[[0, 0, *shape, 1]], boxes_in(shape, 4, 0)])
        for side in SIDES:
            assert crop(pixels, shape, boxes, side, is_jpeg=False) == 0

    # Tables and boxes that contradict the file
    content, shape = next(pair for pair in valid if pair[1] == (203, 331))
    whole = np.array([[0, 0, *shape, 0]])
    far = 2**62
    for table in (
        *({"offsets": -1}, {"offsets": 1}, {"offsets": far}, {"sizes": 0}, {"sizes": -5}, {"sizes": far}),
        *({"offsets": far, "sizes": far}, {"heights": 0}, {"widths": 0}, {"heights": far}, {"widths": 331 * 2}),
    ):
        assert crop(content, shape, whole, 32, **table) == 1, table
        assert crop(content, shape, whole, 32, is_jpeg=False, **table) == 1, table
    for box in (
        (-1, 0, 9, 9),
        (0, -1, 9, 9),
        (0, 0, 0, 9),
        (0, 0, 9, 0),
        (0, 0, 204, 9),
        (0, 330, 9, 2),
        (far, 0, far, 9),
    ):
        assert crop(content, shape, np.array([[*box, 0]]), 32) == 1, box
    print("done")


if __name__ == "__main__":
    main(int(sys.argv[1]))
