"""Sources of images, each of which lists its classes and samples and has a reader for them."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import re
import shutil
import tarfile
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, cast

from reproduce.data.imagenet import check_archives, list_archives
from reproduce.data.manifest import SPLITS, DataError, Split
from reproduce.data.readers import FileReader, GratingReader, IdxReader, Listing, Progress, Reader, Sample, TarReader
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
LAYOUT = "train/<class>/* and val/<class>/*"


@dataclass(frozen=True)
class Source:
    """A data set to prepare.

    Made by `folder`, `tar`, `imagenet`, `imagenette`, `fashion_mnist`, `synthetic` or `source_from`.
    """

    name: str
    """See `Manifest.source`."""
    origin: str
    """See `Manifest.origin`."""
    open: Callable[[Path, Progress], Listing]
    """Lists the samples. Its arguments are a folder for temporary files that the reader needs, and a function that is
    told how much of the listing is done. Raises `DataError`."""


def source_from(text: str) -> Source:
    """The source that a text of the command line names.

    The text is the path of an image folder or a tar; `imagenette[:PATH]` or `fashion-mnist[:PATH]`, which without PATH
    are looked for on this machine and else downloaded; `imagenet:FOLDER[,classes=N or FILE][,checksums=off]`, the
    folder of ImageNet's three archives; or `synthetic[:classes=10,images=2000,size=64,seed=0]`.

    Raises:
        DataError: The text names no source.
    """
    name, _, rest = text.partition(":")
    path = Path(rest).expanduser() if rest else None
    if name == "imagenette":
        return imagenette(path)
    if name == "fashion-mnist":
        return fashion_mnist(path)
    if name == "imagenet":
        return _imagenet_from(rest)
    if name == "synthetic":
        return synthetic(**_numbers(rest))
    path = Path(text).expanduser()
    if path.is_dir():
        return folder(path)
    if path.is_file():
        return tar(path)
    raise DataError(
        f"source: {text!r}: no such folder or file, and not imagenet:FOLDER, imagenette[:PATH], fashion-mnist[:PATH] "
        "or synthetic"
    )


def folder(path: Path) -> Source:
    """An ImageNet-style folder: `train/<class>/*` and `val/<class>/*`, at its top or in its only sub-folder."""
    return Source("folder", path.name, lambda *_: _list_folder(path))


def tar(path: Path) -> Source:
    """A tar of an ImageNet-style folder, compressed or not."""
    return Source("tar", path.name, lambda scratch, _: _list_tar(path, scratch))


def imagenette(path: Path | None = None) -> Source:
    """Imagenette from a folder or tar; without one, torchvision downloads 1.5 GB into the user's cache."""
    if path is not None:
        inner = folder(path) if path.is_dir() else tar(path)
        return Source("imagenette", path.name, inner.open)
    return Source("imagenette", "imagenette2", lambda *_: _list_folder(_download_imagenette()))


def imagenet(path: Path, *, classes: int | Path | None = None, checksums: bool = True) -> Source:
    """ImageNet (ILSVRC 2012) as it is downloaded: the folder of its three archives, which are not unpacked.

    Args:
        path: The folder.
        classes: A number of classes, spread evenly over all, or a file with their WordNet ids; None for all 1 000.
        checksums: Whether the archives are compared with the official MD5 first.
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
        Path(folder).expanduser(),
        classes=None if wanted is None else int(wanted) if wanted.isdecimal() else Path(wanted).expanduser(),
        checksums=given.get("checksums") != "off",
    )


def fashion_mnist(path: Path | None = None) -> Source:
    """Fashion-MNIST from a folder with its four idx files; without one, from Debian's package or a download."""

    def open_(*_: object) -> Listing:
        place = path or (FASHION_MNIST_FOLDER if FASHION_MNIST_FOLDER.is_dir() else _download_fashion_mnist())
        reader = IdxReader(place)
        labels = {split: reader.labels(split) for split in SPLITS}
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
    """Noisy coloured gratings, whose colour and direction depend on the class; for tests and dry runs.

    A network learns them in minutes.

    Args:
        classes: Number of classes.
        images: Number of training images; there are a quarter as many validation images, at least one a class.
        size: Height and width of an image, in pixels.
        seed: Seed of all that is random.

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


def _list_folder(path: Path) -> Listing:
    root = path
    if not (path / "train").is_dir():
        inner = [entry for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith(".")]
        if len(inner) == 1 and (inner[0] / "train").is_dir():
            root = inner[0]
    files = (
        (str(Path(parent, name).relative_to(root)), Path(parent, name).stat().st_size, 0)
        for split in SPLITS
        for parent, _, names in os.walk(root / split, followlinks=True)
        for name in names
    )
    empty = {
        split: [entry.name for entry in (root / split).iterdir() if entry.is_dir()]
        for split in SPLITS
        if (root / split).is_dir()
    }
    return _listing(path, files, empty, FileReader(root))


def _list_tar(path: Path, scratch: Path) -> Listing:
    if not path.is_file():
        raise DataError(f"{path}: no such file; give a tar of {LAYOUT}")
    plain = _uncompressed(path, scratch)
    files: list[tuple[str, int, int]] = []
    folders: dict[Split, list[str]] = {}
    try:
        with tarfile.open(plain, "r:") as archive:
            for member in archive:
                parts = PurePosixPath(member.name).parts
                split = next((part for part in parts[:2] if part in SPLITS), None)
                if split is None:
                    continue
                parts = parts[parts.index(split) :]
                if member.isfile():
                    files.append(("/".join(parts), member.size, member.offset_data))
                elif len(parts) == 2:
                    folders.setdefault(split, []).append(parts[1])
    except tarfile.TarError as error:
        raise DataError(f"{path}: not a tar, or truncated: {error}") from error
    end = max((offset + size for _, size, offset in files), default=0)
    if end > plain.stat().st_size:
        raise DataError(f"{path}: truncated: {plain.stat().st_size} bytes, its members need {end}")
    return _listing(path, files, folders, TarReader(plain))


def _uncompressed(path: Path, scratch: Path) -> Path:
    """The tar itself if it is not compressed, else an uncompressed copy in `scratch`, to read members in any order."""
    with path.open("rb") as file:
        start = file.read(6)
    openers: dict[bytes, Any] = {
        b"\x1f\x8b": gzip.open,
        b"BZh": bz2.open,
        b"\xfd7zXZ\0": lzma.open,
    }
    opener = next((opener for magic, opener in openers.items() if start.startswith(magic)), None)
    if opener is None:
        return path
    plain = scratch / "source.tar"
    try:
        with opener(path, "rb") as packed, plain.open("wb") as unpacked:
            shutil.copyfileobj(packed, unpacked, 1 << 20)
    except (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile) as error:
        raise DataError(f"{path}: damaged or truncated: {error}") from error
    return plain


def _listing(
    path: Path, files: Iterable[tuple[str, int, int]], folders: dict[Split, list[str]], reader: Reader
) -> Listing:
    """A listing of files named `<split>/<class>/...`; their order and that of classes is the one of `ImageFolder`."""
    by_class: dict[Split, dict[str, list[tuple[str, int, int]]]] = {
        split: {name: [] for name in folders.get(split, []) if not name.startswith(".")} for split in SPLITS
    }
    for name, size, offset in files:
        parts = PurePosixPath(name).parts
        if len(parts) >= 3 and not any(part.startswith(".") for part in parts):
            by_class[cast(Split, parts[0])].setdefault(parts[1], []).append((name, size, offset))
    for split, found in by_class.items():
        if not any(found.values()):
            raise DataError(f"{path}: no images in {split}/; needs {LAYOUT}")
    classes = tuple(sorted(by_class["train"]))
    if len(classes) < 2:
        raise DataError(f"{path}: {len(classes)} class in train/ ({classes[0]}); needs at least 2")
    for split, found in by_class.items():
        if empty := sorted(name for name, members in found.items() if not members):
            raise DataError(f"{path}: no images in {split}/{empty[0]}; each class folder needs some")
    if unknown := sorted(set(by_class["val"]) - set(classes)):
        raise DataError(f"{path}: val/{unknown[0]} is no class of train/; classes of val must be among those of train")
    number = {name: label for label, name in enumerate(classes)}
    return Listing(
        classes,
        {
            split: tuple(
                Sample(name, number[class_name], size, offset)
                for class_name in sorted(found)
                for name, size, offset in sorted(found[class_name])
            )
            for split, found in by_class.items()
        },
        reader,
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
    """Parse `a=1,b=2`, the numbers of a synthetic data set."""
    known = ("classes", "images", "size", "seed")
    numbers: dict[str, int] = {}
    for part in filter(None, text.split(",")):
        match = re.fullmatch(r"(\w+)=(\d+)", part.strip())
        if match is None or match[1] not in known:
            raise DataError(f"source: synthetic:{text}: {part!r} is not one of {', '.join(f'{k}=N' for k in known)}")
        numbers[match[1]] = int(match[2])
    return numbers
