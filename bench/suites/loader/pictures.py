"""The photographs that loaders read: a folder's own, the same re-encoded to another size, or generated ones."""

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

Size = tuple[int, int]
"""Width, height in pixels."""

GENERATED: Size = (500, 375)  # what most of ImageNet's photographs measure
QUALITY = 90  # of JPEGs that are made here
CLASSES = 8  # of generated pictures
FALL = 1.15  # of a generated picture's amplitudes with frequency; natural images: about 1 (Field 1987)


@dataclass(frozen=True)
class Pictures:
    """RGB JPEGs, `train/<class>/*.jpg`, and FFCV files made from them."""

    name: str
    """Short, for a comparison's name: photographs, 500x375, generated."""
    description: str
    place: Path
    images: int
    pixels: float
    """Mean of an image."""

    def source(self, form: str) -> Path:
        """What a contestant reads of this form (`Contestant.form`); FFCV files are written at their first use."""
        if form == "folder":
            return self.place / "images"
        files = self.place / form
        if not files.exists():
            mode, markers = ("jpg", True) if form == MARKED else (form, False)
            options = PrepareOptions(write_mode=mode)  # type: ignore[arg-type]
            prepare(folder_source(self.place / "images"), files, PrepareConfig(options=options, markers=markers))
        return files

    def kib(self, form: str) -> float:
        """KiB an image in this form."""
        place = self.source(form)
        paths = (place / "train").rglob("*.jpg") if form == "folder" else [place / "train.beton"]
        return sum(path.stat().st_size for path in paths) / self.images / 1024


def photographs(folder: Path, place: Path, *, images: int) -> Pictures:
    """A copy of so many RGB JPEGs of `folder`, evenly from all of its training images.

    Raises `DataError`: no train/<class>/ with as many.
    """
    if not (folder / "train").is_dir():
        raise DataError(f"{folder}: no folder train/ in it; name an ImageNet-style folder (train/<class>/*.jpg)")
    found = sorted(path for path in (folder / "train").glob("*/*") if path.is_file())
    copies = _Folder(place)
    step = max(1, len(found) // images)
    for path in found[::step] + [path for start in range(1, step) for path in found[start::step]]:
        if copies.images == images:
            break
        with suppress(UnidentifiedImageError), Image.open(path) as image:
            if image.format == "JPEG" and image.mode == "RGB":
                shutil.copyfile(path, copies.next(path.parent.name, image.size))
    if copies.images < images:
        raise DataError(f"{folder}: {copies.images} RGB JPEGs in train/<class>/, not {images}; use fewer images")
    return copies.finish("photographs", f"photographs of {folder.name}")


def mosaics(original: Pictures, place: Path, size: Size) -> Pictures:
    """Pictures of another size, encoded anew: as many of the photographs side by side as it takes to fill one.

    An enlarged photograph would hold less detail than a camera's of that size, and be quicker to decode.
    """
    copies = _Folder(place)
    paths = sorted((original.source("folder") / "train").rglob("*.jpg"))
    for number, path in enumerate(paths):
        picture = _mosaic(paths[number:] + paths[:number], size)
        picture.save(copies.next(path.parent.name, size), quality=QUALITY)
    width, height = size
    return copies.finish(f"{width}x{height}", f"mosaics of {original.description}, {width}x{height}")


def _mosaic(paths: Sequence[Path], size: Size) -> Image.Image:
    """The centres of the first photographs, in equal cells; none is enlarged beyond what fills its cell."""
    with Image.open(paths[0]) as first:
        columns, rows = (math.ceil(asked / has) for asked, has in zip(size, first.size, strict=True))
    cell = math.ceil(size[0] / columns), math.ceil(size[1] / rows)
    canvas = Image.new("RGB", size)
    for number, path in zip(range(columns * rows), itertools.cycle(paths)):
        with Image.open(path) as image:
            left, top = ((has - wanted) // 2 for has, wanted in zip(image.size, cell, strict=True))
            fits = left >= 0 and top >= 0
            tile = image.crop((left, top, left + cell[0], top + cell[1])) if fits else ImageOps.fit(image, cell)
        canvas.paste(tile, (number % columns * cell[0], number // columns * cell[1]))
    return canvas


def generated(place: Path, *, images: int, size: Size = GENERATED) -> Pictures:
    """Noise with the spectrum of photographs, for where there are none; as hard to decode, if nothing to look at."""
    width, height = size
    noise = _noise(side=4 * max(size))
    random = np.random.default_rng(0)
    copies = _Folder(place)
    for number in range(images):
        top, left = random.integers(0, len(noise) - np.array([height, width]))
        picture = Image.fromarray(noise[top : top + height, left : left + width])
        picture.save(copies.next(f"class{number % CLASSES}", size), quality=QUALITY)
    return copies.finish("generated", f"generated pictures, {width}x{height}")


def _noise(side: int) -> npt.NDArray[np.uint8]:
    """Amplitudes that fall with frequency, in grey strongly and in colour weakly: uint8 [side, side, 3]."""
    random = np.random.default_rng(0)
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None])
    frequency[0, 0] = np.inf
    planes = []
    for contrast in (55.0, 12.0, 12.0):
        spectrum = np.fft.rfft2(random.standard_normal((side, side), dtype=np.float32)) / frequency**FALL
        plane = np.fft.irfft2(spectrum, s=(side, side))
        planes.append(plane * (contrast / plane.std()))
    grey, red, blue = planes
    pixels: npt.NDArray[np.uint8] = np.clip(128 + np.stack([grey + red, grey, grey + blue], 2), 0, 255).astype(np.uint8)
    return pixels


class _Folder:
    """An ImageNet-style folder being filled."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.images = 0
        self.pixels = 0

    def next(self, label: str, size: Size) -> Path:
        """Where the next image goes."""
        path = self.place / "images" / "train" / label / f"{self.images:06d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        self.images += 1
        self.pixels += size[0] * size[1]
        return path

    def finish(self, name: str, description: str) -> Pictures:
        for path in self._first_of_each_class():  # FFCV files of ours want validation images, too
            copy = self.place / "images" / "val" / path.parent.name / path.name
            copy.parent.mkdir(parents=True)
            shutil.copyfile(path, copy)
        return Pictures(name, description, self.place, self.images, self.pixels / self.images)

    def _first_of_each_class(self) -> Iterator[Path]:
        for label in sorted((self.place / "images" / "train").iterdir()):
            yield min(label.iterdir())
