"""The manifest of a prepared data set, and checks that the files of a folder match it."""

from __future__ import annotations

import hashlib
import json
import re
import shlex
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError, model_validator

from reproduce.errors import CannotContinueError, UserError
from reproduce.spec import Config, Fraction, WriteMode

Split = Literal["train", "val"]
SPLITS: tuple[Split, ...] = ("train", "val")
MANIFEST = "manifest.json"
WORDNET_ID = re.compile(r"n\d{8}")


class DataError(UserError):
    """Raised if a data set or an option of preparing it is missing, damaged or invalid.

    The message names the file or option, says what is wrong and what would be valid.
    """


class DamagedDataError(DataError, CannotContinueError):
    """Raised if a prepared data set lacks a file, or a file is not the one that was prepared, or is damaged."""


class PrepareOptions(Config):
    """Options of image storage. Each of them can change the stored images, so the manifest records them all."""

    write_mode: WriteMode = "auto"
    """Storage format of an image.

    jpg: a JPEG.
    raw: uncompressed pixels.
    auto: uncompressed pixels if the image is at most 96 pixels wide and high, else a JPEG.
    proportion: JPEGs for a share `compress_probability` of the images, chosen by a hash of their names, and
    uncompressed pixels for the others."""
    max_resolution: int | None = Field(None, ge=16)
    """Maximum length of an image's shorter side, in pixels. Larger images are shrunk to it. None keeps every size."""
    jpeg_quality: int = Field(90, ge=1, le=100)
    """Quality of images that are encoded as JPEGs, on libjpeg's scale from 1 to 100. RGB JPEGs that are not shrunk are
    not encoded again."""
    compress_probability: Fraction = 0.5
    """Share of the images that `write_mode` "proportion" stores as JPEGs. Other modes ignore it."""


class SplitManifest(Config):
    """Description of the FFCV file of one split."""

    images: int = Field(ge=1)
    """Number of images in the file."""
    skipped: int = Field(ge=0)
    """Number of unreadable images that were left out (`--skip-bad`)."""
    marked: int = 0
    """Number of images that are JPEGs with restart markers, of which a region can be decoded on its own."""
    bytes: int
    """Size of the file, in bytes."""
    sha256: str
    """SHA-256 of the file, in hexadecimal."""
    content: str
    """SHA-256, in hexadecimal, of the label, storage mode, height, width and bytes of every image, in the order of the
    file. JPEGs enter it as they are without restart markers. It does not depend on the layout of the file."""


class Manifest(Config):
    """Content of `manifest.json`, which describes a prepared data set.

    The file is written last, so a folder that has one is complete.
    """

    source: str
    """Kind of the source: folder, tar, imagenet, imagenette, fashion-mnist or synthetic."""
    origin: str
    """Name of the file or folder that was read, without its path, or the parameters of a synthetic data set."""
    classes: tuple[str, ...] = Field(min_length=2)
    """Names of the classes, in the order of their labels."""
    splits: dict[Split, SplitManifest]
    options: PrepareOptions
    fingerprint: str
    """SHA-256 of the classes, of the names, labels and sizes of the source's samples, and of the options. Preparing a
    source with the same fingerprint into the same folder again changes nothing."""
    created: str
    """Time at which the manifest was written, in ISO 8601, UTC."""
    hash: str
    """The data hash: SHA-256 of the class names and of the `content` of both splits. Data sets with the same classes,
    labels and stored images in the same order have the same hash, wherever and whenever they were prepared."""
    class_names: tuple[str, ...] = ()
    """What the source calls the classes for people, in the order of their labels, such as `tench, Tinca tinca` for
    n01440764. Empty if it has no such names, and in manifests from before 2026-11-27. It changes neither the
    fingerprint nor the hash."""
    notes: tuple[str, ...] = ()
    """What preparing passed over in the source, with counts, and what else may surprise; one sentence each. It changes
    neither the fingerprint nor the hash."""

    @property
    def by_wordnet_id(self) -> bool:
        """Whether the classes are named by WordNet ids in ascending order, by which ImageNet's labels are numbered."""
        return all(WORDNET_ID.fullmatch(name) for name in self.classes) and list(self.classes) == sorted(self.classes)

    @property
    def numbers_as_text(self) -> bool:
        """Whether the names of the classes are numbers that are in the order of text: 0, 1, 10, 11, ..., 2, 20.

        All names may begin with the same word, as in class0, class1, class10. Class folders are listed in this order,
        as by torchvision's `ImageFolder`. Labels are then not the numbers.
        """
        word = self.classes[0].rstrip("0123456789")
        numbers = [name.removeprefix(word) for name in self.classes]
        in_order_of_text = list(self.classes) == sorted(self.classes)
        return in_order_of_text and all(map(str.isdecimal, numbers)) and numbers != sorted(numbers, key=int)

    @model_validator(mode="after")
    def _coherent(self) -> Manifest:
        if set(self.splits) != set(SPLITS):
            raise ValueError(f"splits: {sorted(self.splits)}; needs train and val")
        if self.class_names and len(self.class_names) != len(self.classes):
            raise ValueError(f"class_names: {len(self.class_names)} names for {len(self.classes)} classes")
        if self.hash != content_hash(self.classes, self.splits):
            raise ValueError(f"hash: {self.hash} does not follow from the contents; the manifest was edited")
        return self


def content_hash(classes: tuple[str, ...], splits: dict[Split, SplitManifest]) -> str:
    """Compute the `hash` of a manifest with these classes and splits, in hexadecimal."""
    content = [classes, [splits[split].content for split in SPLITS]]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def beton(folder: Path, split: Split) -> Path:
    """Return the path of a split's FFCV file in a prepared folder, whether or not the file exists."""
    return folder / f"{split}.beton"


def load_manifest(folder: Path) -> Manifest:
    """Read the manifest of a prepared folder and check that its FFCV files exist and have the right size.

    It does not read the FFCV files; `verification.verify` does.

    Raises:
        DataError: The manifest is missing or invalid, or an FFCV file is missing or has another size. The message names
            the file.
    """
    path, manifest = folder / MANIFEST, read_manifest(folder)
    for split, expected in manifest.splits.items():
        file = beton(folder, split)
        if not file.is_file():
            raise DamagedDataError(f"{file}: no such file, though {path} lists it; prepare it again with --force")
        size = file.stat().st_size
        if size != expected.bytes:
            state = "truncated" if size < expected.bytes else "not the file that was prepared"
            raise DamagedDataError(
                f"{file}: {state}: {size} bytes, {path} says {expected.bytes}; prepare it again with --force"
            )
    return manifest


def read_manifest(folder: Path) -> Manifest:
    """Read the manifest of a prepared folder, which is all that the names of classes and the options need.

    Raises:
        DataError: The manifest is missing or invalid.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise DamagedDataError(
            f"{path}: no such file; prepare the data first: "
            f"deeper data prepare SOURCE --output {shlex.quote(str(folder))}"
        )
    try:
        return Manifest.model_validate_json(path.read_bytes())
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "content"
        raise DamagedDataError(
            f"{path}: not a manifest: {where}: {first['msg']}; prepare it again with --force"
        ) from error


def sha256(path: Path) -> str:
    """Compute the SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
