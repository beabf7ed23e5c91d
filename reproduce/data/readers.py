"""Readers of images: files, members of a tar, idx arrays and generated gratings.

A reader is sent to every worker process and reads one sample at a time. Imports no torch.
"""

from __future__ import annotations

import gzip
import os
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import BinaryIO, NamedTuple, Protocol, cast

import numpy as np

from reproduce.data.encoding import Pixels
from reproduce.data.manifest import DataError, Split


class Sample(NamedTuple):
    """One image of a source."""

    name: str
    """Its path or number in the source."""
    label: int
    """Number of its class."""
    size: int
    """Bytes in the source; 0 if the image is generated."""
    position: int = 0
    """Offset in a tar, or number in an array."""


class Reader(Protocol):
    """Reads the samples of a source, in any process; picklable."""

    def read(self, sample: Sample) -> bytes | Pixels:
        """The bytes of an image file, or pixels uint8 [H, W] or [H, W, 3]. Raises `OSError`."""


Progress = Callable[[str, int, int], None]
"""What is being done, how much of it is done, and how much there is."""


@dataclass(frozen=True)
class Listing:
    """All samples of a source, in the order in which they are stored."""

    classes: tuple[str, ...]
    splits: dict[Split, tuple[Sample, ...]]
    reader: Reader


@dataclass(frozen=True)
class FileReader:
    """Reads files by their path under `root`."""

    root: Path

    def read(self, sample: Sample) -> bytes:
        return (self.root / sample.name).read_bytes()


@dataclass(frozen=True)
class TarReader:
    """Reads members of an uncompressed tar by their offset."""

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
    """Reads Fashion-MNIST's idx files, gzipped or not."""

    root: Path

    def read(self, sample: Sample) -> Pixels:
        arrays = self._train if sample.name.startswith("train/") else self._val
        return cast(Pixels, arrays[sample.position])

    def labels(self, split: Split) -> Pixels:
        """The class numbers of a split's images, uint8 [images]."""
        return self._array(split, "labels-idx1-ubyte")

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
            raise DataError(f"{zipped}: cannot be read: {error}") from error
        dimensions = content[3] if len(content) > 3 else 0
        shape = np.frombuffer(content, ">u4", count=dimensions, offset=4).astype(int) if dimensions else np.array([0])
        if content[:3] != b"\0\0\x08" or len(content) != 4 + 4 * dimensions + shape.prod():
            raise DataError(f"{plain}: not an idx file of bytes, or truncated")
        return np.frombuffer(content, np.uint8, offset=4 + 4 * dimensions).reshape(shape)


@dataclass(frozen=True)
class GratingReader:
    """Draws the images of the synthetic data set."""

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
        return cast(Pixels, (image + random.normal(0, 20, image.shape)).clip(0, 255).astype(np.uint8))
