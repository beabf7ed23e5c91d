"""Multi-crop evaluation: a loader of several crops of each validation image.

Threads decode each image once, resize it once for each scale, and cut the crops out.
"""

# mypy: allow-untyped-calls

from __future__ import annotations

import io
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from reproduce.data.encoding import JPG
from reproduce.data.loading.engine import Reader
from reproduce.data.loading.loaders import NONE, LoaderConfig
from reproduce.data.manifest import DamagedDataError, beton, load_manifest
from reproduce.data.markers import damage_of

Integers = npt.NDArray[np.int64]
Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class MultiCrop:
    """The set of crops that an evaluation takes of an image (Szegedy et al. 2014, section 7).

    The image is resized to several sizes. Each resized image gives one or three squares, and each square gives crops of
    its four corners and its centre. Offsets of centred boxes are rounded down, as in validation's central crop.
    Mirrored crops are not part of the set.
    """

    resolution: int
    """Side of a crop, in pixels."""
    sides: tuple[int, ...]
    """Shorter sides of the resized images, in pixels; the longer ones are in proportion, rounded down."""
    squares: Literal[1, 3]
    """Number of squares of each resized image, whose side is the shorter side of the resized image. 1: the central one.
    3: those at the left, centre and right of a landscape, or at the top, centre and bottom of a portrait."""
    whole: bool
    """Also take each whole square, resized to `resolution`."""

    @property
    def count(self) -> int:
        """Number of crops of an image."""
        return len(self.sides) * self.squares * (5 + self.whole)

    def boxes(self, height: int, width: int) -> Integers:
        """Compute the positions of the crops of an image.

        Args:
            height: Height of the image as it is stored, in pixels.
            width: Width of the image as it is stored, in pixels.

        Returns:
            int64 [count, 5], in pixels: height and width of the resized image, and top, left and side of the box within
            the resized image. A box whose side is not `resolution` is a whole square, which must still be resized.
        """
        found = []
        shorter = min(height, width)
        for side in self.sides:
            h, w = side * height // shorter, side * width // shorter
            margin = side - self.resolution
            places = ((0, 0), (0, margin), (margin, 0), (margin, margin), (margin // 2, margin // 2))
            for place in range(3) if self.squares == 3 else (1,):
                y, x = place * (h - side) // 2, place * (w - side) // 2
                found += [(h, w, y + top, x + left, self.resolution) for top, left in places]
                if self.whole:
                    found.append((h, w, y, x, side))
        return np.array(found, np.int64)

    def cut(self, image: Image.Image) -> Bytes:
        """Make the crops of an RGB image, resizing bilinearly with antialiasing (PIL's BILINEAR).

        Returns:
            uint8 [count, resolution, resolution, 3], in the order of `boxes`.
        """
        crops = np.empty((self.count, self.resolution, self.resolution, 3), np.uint8)
        boxes = self.boxes(image.height, image.width).reshape(len(self.sides), -1, 5)
        for scale, into in zip(boxes, crops.reshape(len(self.sides), -1, *crops.shape[1:]), strict=True):
            height, width = scale[0, :2].tolist()
            resized = image.resize((width, height), Image.Resampling.BILINEAR)
            pixels = np.asarray(resized)
            for (top, left, side), crop in zip(scale[:, 2:].tolist(), into, strict=True):
                if side == self.resolution:
                    crop[:] = pixels[top : top + side, left : left + side]
                else:
                    square = resized.crop((left, top, left + side, top + side))
                    crop[:] = np.asarray(square.resize((self.resolution, self.resolution), Image.Resampling.BILINEAR))
        return crops


class MultiCropLoader:
    """An iterable over the crops of the validation images, in batches.

    The ranks share the images: together they yield every image exactly once, without padding. Ranks take whole batches
    in turn, so every batch holds the same images whatever the world size.

    Iterating yields tuples of crops, uint8 [N, count, 3, resolution, resolution] with the channels last in memory;
    labels, int64 [N]; and image numbers, int64 [N]. All are on the CPU and stay valid as the iteration goes on. The
    image numbers share the loader's memory and must not be modified. A damaged image raises `DataError` during the
    iteration.

    Args:
        folder: A prepared data set.
        crops: The crops to take of each image.
        config: Batch size (in images), rank, world size, and the number of threads that decode and cut ahead of the
            consumer. Its device and dtype are ignored.
        leave_out: Numbers of images to leave out. Their batches become smaller, and other batches stay the same.

    Raises:
        DataError: The manifest is missing or invalid, or an FFCV file is missing or has the wrong size.
    """

    def __init__(self, folder: Path, crops: MultiCrop, config: LoaderConfig, *, leave_out: Integers = NONE) -> None:
        load_manifest(folder)
        self._images = _StoredImages(beton(folder, "val"))
        self._crops, self._batch_size, self._threads = crops, config.batch_size, config.threads
        wanted = np.setdiff1d(np.arange(len(self._images.labels)), leave_out)
        batches = np.split(wanted, np.flatnonzero(np.diff(wanted // config.batch_size)) + 1)
        self._batches = [batch for batch in batches[config.rank :: config.world_size] if len(batch)]

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        order = chain.from_iterable(batch.tolist() for batch in self._batches)
        with ThreadPoolExecutor(self._threads) as pool:

            def ahead(images: int) -> Iterator[Any]:
                return (pool.submit(self._cut, number) for number in islice(order, images))

            waiting = deque(ahead(self._batch_size + 2 * self._threads))
            for numbers in self._batches:
                crops = np.empty((len(numbers), self._crops.count, *2 * (self._crops.resolution,), 3), np.uint8)
                for image in crops:
                    image[:] = waiting.popleft().result()
                    waiting.extend(ahead(1))
                labels = self._images.labels[numbers]
                yield (
                    torch.from_numpy(crops).permute(0, 1, 4, 2, 3),
                    torch.from_numpy(labels),
                    torch.from_numpy(numbers),
                )

    def _cut(self, number: int) -> Bytes:
        return self._crops.cut(self._images[number])


class _StoredImages:
    """The images of an FFCV file in full size, by number. Reading is thread-safe."""

    def __init__(self, file: Path) -> None:
        reader = Reader(str(file))
        self._file = file
        self._content = np.memmap(file, np.uint8, "r")
        self._fields = reader.metadata["f0"]
        self._sizes = dict(zip(reader.alloc_table["ptr"].tolist(), reader.alloc_table["size"].tolist(), strict=True))
        self.labels: Integers = reader.metadata["f1"].astype(np.int64)

    def __getitem__(self, number: int) -> Image.Image:
        mode, width, height, start = self._fields[number].tolist()
        stored = self._content[start : start + self._sizes.get(start, 0)]
        try:
            if mode != JPG:
                return Image.fromarray(stored.reshape(height, width, 3))
            if damage := damage_of(stored.tobytes()):
                raise ValueError(damage)
            image = Image.open(io.BytesIO(stored.tobytes()))
            image.load()
        except (OSError, ValueError) as error:
            raise DamagedDataError(
                f"{self._file}: image {number} is damaged: {error}; prepare the data set again"
            ) from error
        return image


def shorter_sides(folder: Path) -> Integers:
    """Read the shorter side of each stored validation image of a prepared folder, in pixels, int64 [images]."""
    stored = Reader(str(beton(folder, "val"))).metadata["f0"]
    return cast(Integers, np.minimum(stored["height"], stored["width"]).astype(np.int64))
