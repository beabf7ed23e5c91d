"""Several crops of each validation image, which threads decode once, resize once for each scale, and cut out."""

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
from reproduce.data.manifest import DataError, beton, load_manifest

Integers = npt.NDArray[np.int64]
Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class MultiCrop:
    """Which crops are taken of an image (Szegedy et al. 2014, section 7), without their mirrored versions.

    The image is resized to several sizes. One or three squares are taken of each resized image, and of each square the
    crops in its four corners and its centre. Odd margins are halved downwards, as in validation's central crop.
    """

    resolution: int
    """Side of a crop, in pixels."""
    sides: tuple[int, ...]
    """Shorter sides of the resized images, in pixels; the longer ones are in proportion, rounded down."""
    squares: Literal[1, 3]
    """1: the central square. 3: left, centre and right; of a portrait, top, centre and bottom."""
    whole: bool
    """Take each square itself as well, resized to `resolution`."""

    @property
    def count(self) -> int:
        """Crops of an image."""
        return len(self.sides) * self.squares * (5 + self.whole)

    def boxes(self, height: int, width: int) -> Integers:
        """Where the crops of an image lie.

        Args:
            height: The image's height, in pixels.
            width: Its width.

        Returns:
            [count, 5]: height and width of the resized image, and top, left and side of the box in it. A box whose side
            is not `resolution` is a whole square, which remains to be resized.
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
        """The crops of an RGB image, uint8 [count, resolution, resolution, 3], resized bilinearly with antialiasing."""
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
    """Crops of the validation images. All ranks together give every image exactly once, without padding.

    Iterating yields crops uint8 [N, count, 3, resolution, resolution] in channels_last, labels int64 [N] and image
    numbers int64 [N], on the CPU. Ranks take whole batches in turn, so that every batch holds the same images whatever
    the world size.

    Args:
        folder: A prepared data set.
        crops: The crops of an image.
        config: Batch size, rank, world size, and the number of threads that decode and cut ahead; the crops stay
            uint8 on the CPU whatever its device and dtype are.
        leave_out: Numbers of images that are not wanted. Batches lack them.

    Raises:
        DataError: The folder's files are missing or damaged.
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
    """The images of an FFCV file in full size, by number; any thread may read them."""

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
            image = Image.open(io.BytesIO(stored.tobytes()))
            image.load()
        except (OSError, ValueError) as error:
            raise DataError(f"{self._file}: image {number} is damaged: {error}; prepare the data set again") from error
        return image


def shorter_sides(folder: Path) -> Integers:
    """The shorter side of each stored validation image in pixels, [images]."""
    stored = Reader(str(beton(folder, "val"))).metadata["f0"]
    return cast(Integers, np.minimum(stored["height"], stored["width"]).astype(np.int64))
