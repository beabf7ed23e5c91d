"""The photographs that loaders read: those of a folder, mosaics of them in another size, or generated pictures."""

from __future__ import annotations

import itertools
import math
import shutil
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from bench.suites.loader.implementations import MARKED
from reproduce.data import DataError, PrepareOptions
from reproduce.data import folder as folder_source
from reproduce.data.writing import PrepareConfig, prepare

ImageSize = tuple[int, int]
"""Width and height in pixels."""

GENERATED_SIZE: ImageSize = (500, 375)  # the most frequent size of ImageNet's photographs
JPEG_QUALITY = 90
GENERATED_CLASSES = 8
SPECTRUM_EXPONENT = 1.15  # amplitude ~ 1 / frequency ** this; about 1 in natural images (Field 1987)


@dataclass(frozen=True)
class Pictures:
    """RGB JPEGs in `train/<class>/*.jpg`, and FFCV files made from them."""

    name: str
    """Short, for the name of a comparison: photographs, 500x375, generated."""
    description: str
    folder: Path
    images: int
    pixels: float
    """Mean number of pixels in an image."""

    def source(self, input_format: str) -> Path:
        """Returns what a loader of this `LoaderImplementation.input_format` reads.

        FFCV files are written when they are first asked for.
        """
        if input_format == "folder":
            return self.folder / "images"
        files = self.folder / input_format
        if not files.exists():
            mode, markers = ("jpg", True) if input_format == MARKED else (input_format, False)
            options = PrepareOptions(write_mode=mode)  # type: ignore[arg-type]
            prepare(folder_source(self.folder / "images"), files, PrepareConfig(options=options, markers=markers))
        return files

    def kib_per_image(self, input_format: str) -> float:
        """Returns the mean size of an image in this format, in KiB."""
        source = self.source(input_format)
        paths = (source / "train").rglob("*.jpg") if input_format == "folder" else [source / "train.beton"]
        return sum(path.stat().st_size for path in paths) / self.images / 1024


def photographs(folder: Path, target: Path, *, images: int) -> Pictures:
    """Copies RGB JPEGs out of all classes of `folder`, at even distances in the sorted list of its training images.

    Args:
        folder: An ImageNet-style folder with `train/<class>/*`.
        target: Where the copies are put.
        images: How many are copied.

    Raises:
        DataError: The folder has no training images, or fewer RGB JPEGs than `images`.
    """
    if not (folder / "train").is_dir():
        raise DataError(f"{folder}: no folder train/ in it; name an ImageNet-style folder (train/<class>/*.jpg)")
    found = sorted(path for path in (folder / "train").glob("*/*") if path.is_file())
    copies = _PictureFolder(target)
    step = max(1, len(found) // images)
    for path in found[::step] + [path for start in range(1, step) for path in found[start::step]]:
        if copies.images == images:
            break
        with suppress(UnidentifiedImageError), Image.open(path) as image:
            if image.format == "JPEG" and image.mode == "RGB":
                shutil.copyfile(path, copies.next_path(path.parent.name, image.size))
    if copies.images < images:
        raise DataError(f"{folder}: {copies.images} RGB JPEGs in train/<class>/, not {images}; use fewer images")
    return copies.finish("photographs", f"photographs of {folder.name}")


def mosaics(original: Pictures, target: Path, size: ImageSize) -> Pictures:
    """Makes pictures of another size, each of as many photographs side by side as it takes to fill it.

    Enlarging the photographs instead would give pictures with less detail than those of a camera, which decode faster.
    """
    copies = _PictureFolder(target)
    paths = sorted((original.source("folder") / "train").rglob("*.jpg"))
    for number, path in enumerate(paths):
        picture = _mosaic(paths[number:] + paths[:number], size)
        picture.save(copies.next_path(path.parent.name, size), quality=JPEG_QUALITY)
    width, height = size
    return copies.finish(f"{width}x{height}", f"mosaics of {original.description}, {width}x{height}")


def _mosaic(paths: Sequence[Path], size: ImageSize) -> Image.Image:
    """Puts the centres of the first photographs into equal cells, and enlarges only those smaller than their cell."""
    with Image.open(paths[0]) as first:
        columns, rows = (math.ceil(wanted / given) for wanted, given in zip(size, first.size, strict=True))
    cell = math.ceil(size[0] / columns), math.ceil(size[1] / rows)
    canvas = Image.new("RGB", size)
    for number, path in zip(range(columns * rows), itertools.cycle(paths)):
        with Image.open(path) as image:
            left, top = ((given - wanted) // 2 for given, wanted in zip(image.size, cell, strict=True))
            fits = left >= 0 and top >= 0
            tile = image.crop((left, top, left + cell[0], top + cell[1])) if fits else ImageOps.fit(image, cell)
        canvas.paste(tile, (number % columns * cell[0], number // columns * cell[1]))
    return canvas


def generated(target: Path, *, images: int, size: ImageSize = GENERATED_SIZE) -> Pictures:
    """Makes pictures of noise with the spectrum of photographs, which are as hard to decode as photographs."""
    width, height = size
    noise = _noise(side=4 * max(size))
    random = np.random.default_rng(0)
    copies = _PictureFolder(target)
    for number in range(images):
        top, left = random.integers(0, len(noise) - np.array([height, width]))
        picture = Image.fromarray(noise[top : top + height, left : left + width])
        picture.save(copies.next_path(f"class{number % GENERATED_CLASSES}", size), quality=JPEG_QUALITY)
    return copies.finish("generated", f"generated pictures, {width}x{height}")


def _noise(side: int) -> npt.NDArray[np.uint8]:
    """Returns noise, uint8 [side, side, 3], with much contrast in brightness and little in colour."""
    random = np.random.default_rng(0)
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None])
    frequency[0, 0] = np.inf
    planes = []
    for contrast in (55.0, 12.0, 12.0):
        spectrum = np.fft.rfft2(random.standard_normal((side, side), dtype=np.float32)) / frequency**SPECTRUM_EXPONENT
        plane = np.fft.irfft2(spectrum, s=(side, side))
        planes.append(plane * (contrast / plane.std()))
    grey, red, blue = planes
    pixels: npt.NDArray[np.uint8] = np.clip(128 + np.stack([grey + red, grey, grey + blue], 2), 0, 255).astype(np.uint8)
    return pixels


class _PictureFolder:
    """An ImageNet-style folder that is being filled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.images = 0
        self.pixels = 0

    def next_path(self, label: str, size: ImageSize) -> Path:
        """Returns the path of the next image, and counts it."""
        path = self.folder / "images" / "train" / label / f"{self.images:06d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        self.images += 1
        self.pixels += size[0] * size[1]
        return path

    def finish(self, name: str, description: str) -> Pictures:
        """Adds validation images, without which no FFCV files can be prepared, and returns the pictures."""
        for path in self._first_of_each_class():
            copy = self.folder / "images" / "val" / path.parent.name / path.name
            copy.parent.mkdir(parents=True)
            shutil.copyfile(path, copy)
        return Pictures(name, description, self.folder, self.images, self.pixels / self.images)

    def _first_of_each_class(self) -> Iterator[Path]:
        for label in sorted((self.folder / "images" / "train").iterdir()):
            yield min(label.iterdir())
