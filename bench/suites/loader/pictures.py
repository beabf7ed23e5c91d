"""Makes the pictures that loaders read: copies of photographs, mosaics of them in another size, or generated ones."""

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
MIXED_SIZES: tuple[ImageSize, ...] = (
    *((500, 375), (500, 333), (375, 500), (640, 480), (333, 500)),
    *((1024, 768), (224, 224), (500, 400), (250, 250), (1600, 1200), (120, 90)),
)
"""Sizes of ImageNet's photographs: frequent ones, and some that are far larger or smaller."""
JPEG_QUALITY = 90
GENERATED_CLASSES = 8
SPECTRUM_EXPONENT = 1.15  # amplitude ~ 1 / frequency ** this; about 1 in natural images (Field 1987)


@dataclass(frozen=True)
class Pictures:
    """A set of RGB JPEGs in an ImageNet-style folder, and the FFCV files that are made from it on demand."""

    name: str
    """A short name, which becomes part of the name of a comparison: "photographs", "generated", or a size such as
    "500x375"."""
    description: str
    """Describes the pictures in a phrase, for titles of tables."""
    folder: Path
    """The folder whose subfolders hold the pictures, one for each input format. The JPEGs are in `images`."""
    images: int
    """Number of training images."""
    pixels: float
    """Mean number of pixels in an image."""

    def source(self, input_format: str) -> Path:
        """Return the folder that a loader with this input format reads.

        The first call for a format of FFCV files writes them, which takes a while.

        Args:
            input_format: See `LoaderImplementation.input_format`.
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
        """Return the mean size of a training image on disk in an input format, in KiB.

        The first call for a format of FFCV files writes them.
        """
        return sum(path.stat().st_size for path in training_files(self.source(input_format))) / self.images / 1024


def training_files(source: Path) -> list[Path]:
    """Return the files that hold the training images in a folder that `Pictures.source` has returned, or in its copy.

    They are the FFCV file or the JPEGs, class by class.
    """
    file = source / "train.beton"
    return [file] if file.exists() else sorted((source / "train").rglob("*.jpg"))


def photographs(folder: Path, target: Path, *, images: int) -> Pictures:
    """Copy RGB JPEGs from the training images of an ImageNet-style folder, spread evenly over its sorted list of files.

    All other files are skipped.

    Args:
        folder: An ImageNet-style folder with `train/<class>/*`.
        target: The folder of the copies, see `Pictures.folder`. It is created.
        images: Number of images to copy.

    Raises:
        DataError: The folder has no `train/`, or fewer RGB JPEGs in it than `images`.
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
    """Make one picture of the given size for each original, from photographs side by side.

    Enlarged photographs would have less detail than those of a camera and would therefore decode faster.

    Args:
        original: Pictures whose JPEGs are the photographs.
        target: The folder of the mosaics, see `Pictures.folder`. It is created.
        size: Width and height of each mosaic, in pixels.
    """
    copies = _PictureFolder(target)
    paths = sorted((original.source("folder") / "train").rglob("*.jpg"))
    for number, path in enumerate(paths):
        picture = _mosaic(paths[number:] + paths[:number], size)
        picture.save(copies.next_path(path.parent.name, size), quality=JPEG_QUALITY)
    width, height = size
    return copies.finish(f"{width}x{height}", f"mosaics of {original.description}, {width}x{height}")


def mixed(original: Pictures, target: Path) -> Pictures:
    """Make one picture for each original that may have any of `MIXED_SIZES` and of the kinds that ImageNet has.

    The pictures are mosaics, as `mosaics` makes them. One in eight is a progressive JPEG, one in sixteen is grey, and
    one in sixteen has the four colours of print (CMYK), of which ImageNet has 22 in 1.3 million.

    Args:
        original: Pictures whose JPEGs are the photographs.
        target: The folder of the pictures, see `Pictures.folder`. It is created.
    """
    copies = _PictureFolder(target)
    paths = sorted((original.source("folder") / "train").rglob("*.jpg"))
    for number, path in enumerate(paths):
        size = MIXED_SIZES[number % len(MIXED_SIZES)]
        picture = _mosaic(paths[number:] + paths[:number], size)
        mode = {3: "L", 11: "CMYK"}.get(number % 16, "RGB")
        progressive = number % 8 == 5
        picture.convert(mode).save(
            copies.next_path(path.parent.name, size), quality=JPEG_QUALITY, progressive=progressive
        )
    return copies.finish("mixed", f"mosaics of {original.description} of mixed sizes, some progressive, grey or CMYK")


def repeated(original: Pictures, target: Path, *, times: int) -> Pictures:
    """Make pictures that take more room on the disk: copies of the same JPEGs, each in files of its own.

    Args:
        original: The pictures.
        target: The folder of the copies, see `Pictures.folder`. It is created.
        times: Number of copies of each JPEG.
    """
    copies = _PictureFolder(target)
    for path in training_files(original.source("folder")) * times:
        with Image.open(path) as image:
            shutil.copyfile(path, copies.next_path(path.parent.name, image.size))
    return copies.finish(original.name, f"{original.description}, {times} times")


def with_damage(original: Pictures, target: Path, *, images: int) -> Path:
    """Copy the JPEGs of some pictures, and cut one of them off in the middle.

    Args:
        original: The pictures.
        target: The folder of the copies, which is created.
        images: Number of pictures.

    Returns:
        The ImageNet-style folder, with `train/` and `val/`.
    """
    paths = sorted((original.source("folder") / "train").rglob("*.jpg"))[:images]
    for part in ("train", "val"):
        for number, path in enumerate(paths):
            content = path.read_bytes()
            copy = target / part / "any" / path.name
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(content[: len(content) // 2] if (part, number) == ("train", images // 2) else content)
    return target


def _mosaic(paths: Sequence[Path], size: ImageSize) -> Image.Image:
    """Make one mosaic: a grid of equal cells, each with the centre of a photograph.

    Only photographs that are smaller than a cell are enlarged.

    Args:
        paths: Photographs, at least one. They are used in this order, and again from the first if they are too few. The
            size of the first one decides how many cells there are.
        size: Width and height of the mosaic, in pixels.
    """
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
    """Make JPEGs of noise with the spectrum of photographs, which take about as long to decode as photographs.

    The pictures are the same in every call with the same arguments.

    Args:
        target: The folder of the pictures, see `Pictures.folder`. It is created.
        images: Number of training images.
        size: Width and height of an image, in pixels.
    """
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
    """Return noise, uint8 [side, side, 3], with high contrast in brightness and low contrast in colour."""
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
    """Builds `Pictures`: hands out the paths of the images, and counts images and pixels."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.images = 0
        self.pixels = 0

    def next_path(self, label: str, size: ImageSize) -> Path:
        """Return the path of the next image, to which the caller writes it, and count the image.

        Args:
            label: Name of the class, which becomes the name of the folder.
            size: Width and height of the image, in pixels.
        """
        path = self.folder / "images" / "train" / label / f"{self.images:06d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        self.images += 1
        self.pixels += size[0] * size[1]
        return path

    def finish(self, name: str, description: str) -> Pictures:
        """Copy one image of each class to `val/`, without which FFCV files cannot be prepared; return the pictures."""
        for path in self._first_of_each_class():
            copy = self.folder / "images" / "val" / path.parent.name / path.name
            copy.parent.mkdir(parents=True)
            shutil.copyfile(path, copy)
        return Pictures(name, description, self.folder, self.images, self.pixels / self.images)

    def _first_of_each_class(self) -> Iterator[Path]:
        for label in sorted((self.folder / "images" / "train").iterdir()):
            yield min(label.iterdir())
