"""Where images come from. A source lists its samples; a reader, sent to every worker process, reads them one by one."""

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
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, NamedTuple, Protocol, cast

import numpy as np

from reproduce.data.encoding import Pixels
from reproduce.data.manifest import SPLITS, DataError, Split

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


class Sample(NamedTuple):
    """One image: its name in messages, class number, and where the reader finds it."""

    name: str
    label: int
    size: int
    """Bytes in the source; 0 where it is made on the spot."""
    position: int = 0
    """Offset in a tar, or number in an array."""


class Reader(Protocol):
    """Reads samples in any process; picklable."""

    def read(self, sample: Sample) -> bytes | Pixels:
        """An image file's bytes, or pixels uint8 [H, W] or [H, W, 3]; raises OSError."""


@dataclass(frozen=True)
class Listing:
    """All samples of a source, in the order in which they are stored."""

    classes: tuple[str, ...]
    splits: dict[Split, tuple[Sample, ...]]
    reader: Reader


@dataclass(frozen=True)
class Source:
    """A data set to prepare; made by `folder`, `tar`, `imagenette`, `fashion_mnist`, `synthetic` or `source_from`."""

    name: str
    """As in `Manifest.source`."""
    origin: str
    """As in `Manifest.origin`."""
    open: Callable[[Path], Listing]
    """List the samples; the folder given is for scratch files and outlives the reading. Raises `DataError`."""


def source_from(text: str) -> Source:
    """The source that a command line names. Raises `DataError`.

    A path to an image folder or a tar; `imagenette[:PATH]`, `fashion-mnist[:PATH]` (without PATH: found on this
    machine or downloaded); `synthetic[:classes=10,images=2000,size=64,seed=0]`.
    """
    name, _, rest = text.partition(":")
    path = Path(rest).expanduser() if rest else None
    if name == "imagenette":
        return imagenette(path)
    if name == "fashion-mnist":
        return fashion_mnist(path)
    if name == "synthetic":
        return synthetic(**_numbers(rest))
    path = Path(text).expanduser()
    if path.is_dir():
        return folder(path)
    if path.is_file():
        return tar(path)
    raise DataError(
        f"source: {text!r}: no such folder or file, and not imagenette[:PATH], fashion-mnist[:PATH] or synthetic"
    )


def folder(path: Path) -> Source:
    """An ImageNet-style folder: `train/<class>/*` and `val/<class>/*`, at its top or in its only sub-folder."""
    return Source("folder", path.name, lambda _: _list_folder(path))


def tar(path: Path) -> Source:
    """A tar, compressed or not, of such a folder."""
    return Source("tar", path.name, lambda scratch: _list_tar(path, scratch))


def imagenette(path: Path | None = None) -> Source:
    """Imagenette: a folder or tar, else downloaded by torchvision (1.5 GB; kept in the user's cache)."""
    if path is not None:
        inner = folder(path) if path.is_dir() else tar(path)
        return Source("imagenette", path.name, inner.open)
    return Source("imagenette", "imagenette2", lambda _: _list_folder(_download_imagenette()))


def fashion_mnist(path: Path | None = None) -> Source:
    """Fashion-MNIST: a folder with its four idx files, else those of Debian's package, else downloaded."""

    def open_(_: Path) -> Listing:
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
    """Noisy coloured gratings, their colour and direction told by the class: `images` for training, 1/4 for validation.

    Learnable in minutes and different from seed to seed; for tests and dry runs, not for claims.
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
    return Source("synthetic", f"classes={classes},images={images},size={size},seed={seed}", lambda _: listing)


# --- readers -----------------------------------------------------------------------------------------


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
        return self._array(split, "labels-idx1-ubyte")

    @cached_property
    def _train(self) -> Pixels:
        return self._array("train", "images-idx3-ubyte")

    @cached_property
    def _val(self) -> Pixels:
        return self._array("val", "images-idx3-ubyte")

    def _array(self, split: Split, what: str) -> Pixels:
        stem = f"{'t10k' if split == 'val' else 'train'}-{what}"
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
    """Draws the synthetic set."""

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
    """The tar itself, or a copy in `scratch` without its compression, so that members can be read in any order."""
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
    """A listing from files named `<split>/<class>/...`; classes and files sorted as torchvision's ImageFolder does."""
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
    if strange := sorted(set(by_class["val"]) - set(classes)):
        raise DataError(f"{path}: val/{strange[0]} is no class of train/; classes of val must be among those of train")
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


def _cache() -> Path:
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "deeper"


def _download_imagenette() -> Path:
    from torchvision.datasets import Imagenette  # torch only where it is needed

    root = _cache()
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
        return Path(FashionMNIST(_cache(), download=True).raw_folder)
    except (OSError, RuntimeError) as error:
        raise DataError(
            f"fashion-mnist: download failed: {error}; install Debian's package dataset-fashion-mnist, "
            "or give the folder of its files: fashion-mnist:PATH"
        ) from error


def _numbers(text: str) -> dict[str, int]:
    """`a=1,b=2` as a mapping."""
    known = ("classes", "images", "size", "seed")
    numbers: dict[str, int] = {}
    for part in filter(None, text.split(",")):
        match = re.fullmatch(r"(\w+)=(\d+)", part.strip())
        if match is None or match[1] not in known:
            raise DataError(f"source: synthetic:{text}: {part!r} is not one of {', '.join(f'{k}=N' for k in known)}")
        numbers[match[1]] = int(match[2])
    return numbers
