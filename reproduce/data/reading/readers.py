"""Readers of single images: from files, members of a tar and idx arrays, or generated.

Every worker process gets a copy of the reader and reads one sample at a time. This module imports no torch.
"""

from __future__ import annotations

import gzip
import math
import os
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, NamedTuple, Protocol, cast

import numpy as np

from reproduce.data.manifest import DataError, Split

if TYPE_CHECKING:
    from reproduce.data.encoding import Pixels


class Sample(NamedTuple):
    """One image of a source."""

    name: str
    """Path or number of the image in the source, beginning with its split, such as `val/17`."""
    label: int
    """Number of the image's class, from 0."""
    size: int
    """Size of the image in the source, in bytes; 0 for a generated image."""
    position: int = 0
    """Offset of the image's bytes in a tar, or its number in an array; 0 for a file of its own."""


class Reader(Protocol):
    """An object that reads the samples of one source. It must be picklable, since worker processes get copies of it."""

    def read(self, sample: Sample) -> bytes | Pixels:
        """Read one image.

        Returns:
            The content of an image file, or decoded pixels, uint8 [H, W] or [H, W, 3].

        Raises:
            OSError: The image cannot be read.
        """


Progress = Callable[[str, int, int], None]
"""A function that is called with the progress of a job: the name of the current step, such as "train" or "listing
classes", the amount done, and the total amount. The step determines the unit: images, classes or bytes."""


@dataclass(frozen=True)
class Listing:
    """All samples of a source, and the reader for them."""

    classes: tuple[str, ...]
    """Names of the classes, in the order of their labels."""
    splits: dict[Split, tuple[Sample, ...]]
    """Samples of each split, in the order in which they are stored."""
    reader: Reader
    notes: tuple[str, ...] = ()
    """What the listing passed over and what may surprise, see `Manifest.notes`."""
    class_names: tuple[str, ...] = ()
    """Names of the classes for people, see `Manifest.class_names`."""


@dataclass(frozen=True)
class FileReader:
    """Reads files by their path relative to `root`, which is `Sample.name`."""

    root: Path

    def read(self, sample: Sample) -> bytes:
        return (self.root / sample.name).read_bytes()


@dataclass(frozen=True)
class TarReader:
    """Reads members of the uncompressed tar `path` by their offset. The tar is opened at the first read."""

    path: Path

    def read(self, sample: Sample) -> bytes:
        return os.pread(self._file.fileno(), sample.size, sample.position)

    @cached_property
    def _file(self) -> BinaryIO:
        return self.path.open("rb")

    def __getstate__(self) -> dict[str, Path]:
        return {"path": self.path}


@dataclass(frozen=True)
class IdxReader:
    """Reads images and labels from the four idx files of Fashion-MNIST in the folder `root`, gzipped or not.

    The first image of a split that is read loads all images of the split into memory. A missing or damaged file raises
    `DataError`.
    """

    root: Path

    def read(self, sample: Sample) -> Pixels:
        arrays = self._train if sample.name.startswith("train/") else self._val
        return cast("Pixels", arrays[sample.position])

    def labels(self, split: Split, classes: int) -> Pixels:
        """Read the class numbers of a split's images, uint8 [images], of which each is below `classes`.

        Raises:
            DataError: A file is missing or damaged, a class number is too large, or the numbers of images and of class
                numbers differ.
        """
        labels, images = self._array(split, "labels-idx1-ubyte"), self._train if split == "train" else self._val
        if len(labels) != len(images) or not images.size:
            raise DataError(
                f"{self.root}: {split}: {len(labels)} class numbers for {len(images)} images; needs as many"
            )
        if labels.max() >= classes:
            raise DataError(f"{self.root}: {split}: class number {labels.max()}; valid: 0 to {classes - 1}")
        return labels

    @cached_property
    def _train(self) -> Pixels:
        return self._array("train", "images-idx3-ubyte")

    @cached_property
    def _val(self) -> Pixels:
        return self._array("val", "images-idx3-ubyte")

    def _array(self, split: Split, kind: str) -> Pixels:
        stem = f"{'t10k' if split == 'val' else 'train'}-{kind}"
        plain, zipped = self.root / stem, self.root / f"{stem}.gz"
        if not plain.is_file() and not zipped.is_file():
            raise DataError(f"{plain}: no such file, nor {zipped.name}; Fashion-MNIST has four idx files in one folder")
        try:
            content = plain.read_bytes() if plain.is_file() else gzip.decompress(zipped.read_bytes())
        except (OSError, EOFError, zlib.error) as error:
            raise DataError(f"{plain if plain.is_file() else zipped}: cannot be read: {error}") from error
        dimensions = 1 if kind.startswith("labels") else 3
        start = 4 + 4 * dimensions
        shape = [int.from_bytes(content[place : place + 4], "big") for place in range(4, start, 4)]
        if content[:4] != bytes((0, 0, 8, dimensions)) or len(content) != start + math.prod(shape):
            raise DataError(f"{plain}: not an idx file of bytes in {dimensions} dimensions, or truncated")
        return np.frombuffer(content, np.uint8, offset=start).reshape(shape)

    def __getstate__(self) -> dict[str, Path]:
        return {"root": self.root}  # and not the images: a worker process reads those that it needs


@dataclass(frozen=True)
class GratingReader:
    """Draws the images of the synthetic data set, see `sources.synthetic`.

    An image depends only on these fields and on the sample's split, label and position.
    """

    classes: int
    size: int
    seed: int

    def read(self, sample: Sample) -> Pixels:
        split = int(sample.name.startswith("val/"))
        random = np.random.default_rng([self.seed, split, sample.position])
        angle = np.pi * sample.label / self.classes + random.normal(0, 0.05)
        frequency = 2 * np.pi * random.uniform(3, 5) / self.size
        y, x = np.mgrid[: self.size, : self.size]
        wave = np.sin(frequency * (x * np.cos(angle) + y * np.sin(angle)) + random.uniform(0, 2 * np.pi))
        hue = 2 * np.pi * (sample.label / self.classes + np.arange(3) / 3)
        image = 128 + 50 * np.cos(hue) * random.uniform(0.6, 1) + 50 * wave[..., None]
        return cast("Pixels", (image + random.normal(0, 20, image.shape)).clip(0, 255).astype(np.uint8))
