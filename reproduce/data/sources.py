"""Data sets that can be prepared: image folders, tars, ImageNet, Imagenette, Fashion-MNIST and synthetic images.

Each source lists its classes and samples and provides a reader for them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from reproduce.data.manifest import SPLITS, DataError, Split
from reproduce.data.reading.imagenet import check_archives, list_archives
from reproduce.data.reading.readers import GratingReader, IdxReader, Listing, Progress, Reader, Sample
from reproduce.data.reading.trees import LAYOUT, Found, Tree, list_folder, list_tar, printable
from reproduce.native import cache

FASHION_MNIST_FOLDER = Path("/usr/share/datasets/fashion-mnist")  # Debian's package dataset-fashion-mnist
FASHION_MNIST_CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)


@dataclass(frozen=True)
class Source:
    """A data set to prepare.

    Create one with `folder`, `tar`, `imagenet`, `imagenette`, `fashion_mnist`, `synthetic` or `source_from`. These
    functions read and download no images; `open` does.
    """

    name: str
    """Kind of the source, see `Manifest.source`."""
    origin: str
    """File, folder or parameters that were read, see `Manifest.origin`."""
    open: Callable[[Path, Progress], Listing]
    """Lists the samples, and downloads or decompresses the data set first if necessary.

    The arguments are an existing folder for temporary files, which must exist for as long as the listing's reader is
    used, and a function that is called with the progress of the listing. Raises `DataError` if the data set is missing
    or damaged."""


def source_from(text: str) -> Source:
    """Parse the SOURCE argument of the command line.

    Args:
        text: One of these:

            - the path of an image folder or of a tar;
            - `imagenette[:PATH]` or `fashion-mnist[:PATH]`: without PATH, `Source.open` uses a copy on this machine and
              downloads the data set if there is none;
            - `imagenet:FOLDER[,classes=N or FILE][,checksums=off]`: the folder of ImageNet's three archives;
            - `synthetic[:classes=10,images=2000,size=64,seed=0]`, where any of the numbers may be left out.

    Raises:
        DataError: The text has none of these forms, has an unknown option, or names no existing folder or file.
    """
    name, _, rest = text.partition(":")
    path = _path(rest) if rest else None
    if name == "imagenette":
        return imagenette(path)
    if name == "fashion-mnist":
        return fashion_mnist(path)
    if name == "imagenet":
        return _imagenet_from(rest)
    if name == "synthetic":
        return synthetic(**_numbers(rest))
    path = _path(text)
    if os.path.isdir(path):
        return folder(path)
    if os.path.isfile(path):
        return tar(path)
    raise DataError(
        f"source: {text!r}: no such folder or file, and not imagenet:FOLDER, imagenette[:PATH], fashion-mnist[:PATH] "
        "or synthetic"
    )


def _path(text: str) -> Path:
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise DataError(f"source: {text!r}: nobody knows the home folder that ~ stands for; write the path") from None


def folder(path: Path) -> Source:
    """Create the source of an image folder that holds `train/<class>/*` and `val/<class>/*`.

    Args:
        path: The folder that holds `train` and `val`, or a folder whose only sub-folder holds them.
    """
    return Source("folder", path.name, lambda *_: _listing(path, *list_folder(path)))


def tar(path: Path) -> Source:
    """Create the source of a tar with `train/<class>/*` and `val/<class>/*`, at its top or one folder down.

    Args:
        path: The tar. One that is compressed by gzip, bzip2 or xz is decompressed as a whole by `Source.open`, into the
            folder for temporary files.
    """
    return Source("tar", path.name, lambda scratch, _: _listing(path, *list_tar(path, scratch)))


def imagenette(path: Path | None = None) -> Source:
    """Create the source of Imagenette, ten classes of ImageNet.

    Args:
        path: A folder or tar of it. With None, `Source.open` reads the copy in the user's cache and lets torchvision
            download it (1.5 GB) if there is none.
    """
    if path is not None:
        inner = folder(path) if os.path.isdir(path) else tar(path)
        return Source("imagenette", path.name, inner.open)

    def open_(*_: object) -> Listing:
        place = _download_imagenette()
        return _listing(place, *list_folder(place))

    return Source("imagenette", "imagenette2", open_)


def imagenet(path: Path, *, classes: int | Path | None = None, checksums: bool = True) -> Source:
    """Create the source of ImageNet (ILSVRC 2012) in its official archives, which are read without unpacking them.

    Args:
        path: The folder of the three archives.
        classes: The classes to take: a number of classes, spread evenly over the sorted WordNet ids; or a text file
            with one WordNet id on each line; or None for all 1 000.
        checksums: Compare the archives with the official MD5 sums in `Source.open`, see `imagenet.check_archives`.
    """

    def open_(_: Path, progress: Progress) -> Listing:
        listing = list_archives(path, classes, progress)
        if checksums:
            check_archives(path, progress)
        return listing

    wanted = "" if classes is None else f",classes={classes if isinstance(classes, int) else classes.name}"
    return Source("imagenet", f"{path.name}{wanted}", open_)


def _imagenet_from(text: str) -> Source:
    folder, *options = text.split(",")
    if not folder:
        raise DataError("source: imagenet: no folder; write imagenet:FOLDER, the folder of the three archives")
    given: dict[str, str] = {}
    for option in options:
        key, _, value = option.partition("=")
        if key not in ("classes", "checksums") or not value or (key == "checksums" and value not in ("on", "off")):
            raise DataError(f"source: imagenet: {option!r}: unknown; add ,classes=N or ,classes=FILE or ,checksums=off")
        given[key] = value
    wanted = given.get("classes")
    return imagenet(
        _path(folder),
        classes=None if wanted is None else int(wanted) if wanted.isdecimal() else _path(wanted),
        checksums=given.get("checksums") != "off",
    )


def fashion_mnist(path: Path | None = None) -> Source:
    """Create the source of Fashion-MNIST; its 10 000 test images are the validation split.

    Args:
        path: The folder of its four idx files, plain or gzipped. With None, `Source.open` uses the folder of Debian's
            package dataset-fashion-mnist if it is installed, and otherwise a copy that torchvision downloads into the
            user's cache.
    """

    def open_(*_: object) -> Listing:
        place = path or (FASHION_MNIST_FOLDER if FASHION_MNIST_FOLDER.is_dir() else _download_fashion_mnist())
        reader = IdxReader(place)
        labels = {split: reader.labels(split, len(FASHION_MNIST_CLASSES)) for split in SPLITS}
        return Listing(
            FASHION_MNIST_CLASSES,
            {
                split: tuple(
                    Sample(f"{split}/{number}", int(label), 784, number) for number, label in enumerate(labels[split])
                )
                for split in SPLITS
            },
            reader,
        )

    return Source("fashion-mnist", "fashion-mnist", open_)


def synthetic(classes: int = 10, images: int = 2000, size: int = 64, seed: int = 0) -> Source:
    """Create a synthetic data set of noisy gratings whose colour and direction depend on the class.

    It is meant for tests and dry runs: a network learns it in minutes.

    Args:
        classes: Number of classes, at least 2.
        images: Number of training images, at least `classes`. The validation split has a quarter as many, but at least
            one of each class.
        size: Height and width of an image, at least 8 pixels.
        seed: Seed of the random generator that draws the images.

    Raises:
        DataError: A number is too small.
    """
    for name, value, least in (("classes", classes, 2), ("images", images, classes), ("size", size, 8)):
        if value < least:
            raise DataError(f"synthetic: {name}: {value} is too few; use at least {least}")
    counts: dict[Split, int] = {"train": images, "val": max(classes, images // 4)}
    listing = Listing(
        tuple(f"class{number:03d}" for number in range(classes)),
        {
            split: tuple(Sample(f"{split}/{number}", number % classes, 0, number) for number in range(count))
            for split, count in counts.items()
        },
        GratingReader(classes, size, seed),
    )
    return Source("synthetic", f"classes={classes},images={images},size={size},seed={seed}", lambda *_: listing)


# --- listings ----------------------------------------------------------------------------------------


def _listing(path: Path, tree: Tree, reader: Reader) -> Listing:
    """Make a listing of a tree's images, ordered as by torchvision's `ImageFolder`.

    Args:
        path: The folder or tar, which messages name.
        tree: The images and class folders.
        reader: Reads the images.

    Raises:
        DataError: A split or class has no images, there are fewer than two classes, `val` has a class that `train`
            lacks, or the name of a class is not UTF-8.
    """
    notes = tree.notes()
    also = "".join(f"; {note}" for note in notes)
    by_class: dict[Split, dict[str, list[Found]]] = {
        split: {name: [] for name in tree.folders[split]} for split in SPLITS
    }
    for file in tree.files:
        split, name, _ = file.name.split("/", 2)
        by_class[cast(Split, split)][name].append(file)
    for split, found in by_class.items():
        if not any(found.values()):
            raise DataError(f"{path}: no images in {split}/; needs {LAYOUT}{also}")
    classes = tuple(sorted(by_class["train"]))
    for name in classes:
        if name != printable(name):
            raise DataError(f"{path}: train/{printable(name)}: the name of a class must be UTF-8; rename the folder")
    if len(classes) < 2:
        raise DataError(f"{path}: {len(classes)} class in train/ ({classes[0]}); needs at least 2")
    for split, found in by_class.items():
        if empty := sorted(name for name, files in found.items() if not files):
            raise DataError(f"{path}: no images in {split}/{empty[0]}; each class folder needs some{also}")
    if unknown := sorted(set(by_class["val"]) - set(classes)):
        raise DataError(
            f"{path}: val/{printable(unknown[0])} is no class of train/; classes of val must be among those of train"
        )
    number = {name: label for label, name in enumerate(classes)}
    return Listing(
        classes,
        {
            split: tuple(
                Sample(file.name, number[name], file.size, file.position)
                for name in sorted(found)
                for file in sorted(found[name])
            )
            for split, found in by_class.items()
        },
        reader,
        notes,
    )


# --- downloads ---------------------------------------------------------------------------------------


def _download_imagenette() -> Path:
    from torchvision.datasets import Imagenette  # imports torch, which other sources do without

    root = cache()
    root.mkdir(parents=True, exist_ok=True)
    place = root / "imagenette2"
    try:
        Imagenette(root, split="train", size="full", download=not place.is_dir())
    except (OSError, RuntimeError) as error:
        raise DataError(f"imagenette: download failed: {error}; give a folder or tar: imagenette:PATH") from error
    return place


def _download_fashion_mnist() -> Path:
    from torchvision.datasets import FashionMNIST

    try:
        return Path(FashionMNIST(cache(), download=True).raw_folder)
    except (OSError, RuntimeError) as error:
        raise DataError(
            f"fashion-mnist: download failed: {error}; install Debian's package dataset-fashion-mnist, "
            "or give the folder of its files: fashion-mnist:PATH"
        ) from error


def _numbers(text: str) -> dict[str, int]:
    """Parse the parameters of a synthetic data set, such as `classes=10,size=64`. Raises `DataError`."""
    known = ("classes", "images", "size", "seed")
    numbers: dict[str, int] = {}
    for part in filter(None, text.split(",")):
        match = re.fullmatch(r"(\w+)=(\d+)", part.strip())
        if match is None or match[1] not in known:
            raise DataError(f"source: synthetic:{text}: {part!r} is not one of {', '.join(f'{k}=N' for k in known)}")
        numbers[match[1]] = int(match[2])
    return numbers
