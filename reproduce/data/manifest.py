"""The manifest of a prepared folder: what the folder holds, and checks that it still does."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError, model_validator

from reproduce.errors import UserError
from reproduce.spec import Config, Fraction

Split = Literal["train", "val"]
SPLITS: tuple[Split, ...] = ("train", "val")
MANIFEST = "manifest.json"


class DataError(UserError):
    """A user's mistake about data. The message names the file or option, what is wrong, and what would be valid."""


class PrepareOptions(Config):
    """How images are stored. Every option can change pixels, so the manifest records them all."""

    write_mode: Literal["auto", "jpg", "raw", "proportion"] = "auto"
    """auto: raw pixels if the image is at most 96 pixels wide and high, else a JPEG. proportion: JPEGs for a share of
    `compress_probability` of the images, chosen by their names."""
    max_resolution: int | None = Field(None, ge=16)
    """Shrink images whose shorter side is longer than this, in pixels."""
    jpeg_quality: int = Field(90, ge=1, le=100)
    """Quality of new JPEGs. RGB JPEGs that need no shrinking keep their pixels."""
    compress_probability: Fraction = 0.5


class SplitManifest(Config):
    """What one FFCV file holds."""

    images: int = Field(ge=1)
    skipped: int = Field(ge=0)
    """Unreadable images left out (`--skip-bad`)."""
    marked: int = 0
    """JPEGs with restart markers, of which a region can be decoded on its own."""
    bytes: int
    """Size of the file."""
    sha256: str
    """SHA-256 of the file."""
    content: str
    """SHA-256 of the images' labels, shapes and bytes, in order and without restart markers; it does not depend on the
    file's layout."""


class Manifest(Config):
    """`manifest.json`. It is written last, so a folder that has one is complete."""

    source: str
    """folder, tar, imagenet, imagenette, fashion-mnist or synthetic."""
    origin: str
    """Name of the file or folder that was read, or the parameters of a synthetic data set."""
    classes: tuple[str, ...] = Field(min_length=2)
    splits: dict[Split, SplitManifest]
    options: PrepareOptions
    fingerprint: str
    """SHA-256 of the source's listing and the options. If it is unchanged, preparing again has nothing to do."""
    created: str
    """Time in ISO 8601, UTC."""
    hash: str
    """SHA-256 of the classes and contents: equal if the images are equal, wherever and whenever they were prepared."""

    @model_validator(mode="after")
    def _coherent(self) -> Manifest:
        if set(self.splits) != set(SPLITS):
            raise ValueError(f"splits: {sorted(self.splits)}; needs train and val")
        if self.hash != content_hash(self.classes, self.splits):
            raise ValueError(f"hash: {self.hash} does not follow from the contents; the manifest was edited")
        return self


def content_hash(classes: tuple[str, ...], splits: dict[Split, SplitManifest]) -> str:
    """The `hash` of a manifest with these classes and splits."""
    content = [classes, [splits[split].content for split in SPLITS]]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def beton(folder: Path, split: Split) -> Path:
    """The FFCV file of a split."""
    return folder / f"{split}.beton"


def load_manifest(folder: Path) -> Manifest:
    """Read the manifest of a prepared folder and check that its files exist and have the right size.

    Raises:
        DataError: A file is missing, has another size, or is not a valid manifest; the message names it.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise DataError(f"{path}: no such file; prepare the data first: deeper data prepare SOURCE --output {folder}")
    try:
        manifest = Manifest.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "content"
        raise DataError(f"{path}: not a manifest: {where}: {first['msg']}; prepare it again with --force") from error
    for split, expected in manifest.splits.items():
        file = beton(folder, split)
        if not file.is_file():
            raise DataError(f"{file}: no such file, though {path} lists it; prepare it again with --force")
        size = file.stat().st_size
        if size != expected.bytes:
            state = "truncated" if size < expected.bytes else "not the file that was prepared"
            raise DataError(
                f"{file}: {state}: {size} bytes, {path} says {expected.bytes}; prepare it again with --force"
            )
    return manifest


def verify(folder: Path) -> Manifest:
    """Do as `load_manifest` does, and check each file's SHA-256. Raises `DataError`."""
    manifest = load_manifest(folder)
    for split, expected in manifest.splits.items():
        found = sha256(beton(folder, split))
        if found != expected.sha256:
            raise DataError(
                f"{beton(folder, split)}: damaged: SHA-256 {found}, the manifest says {expected.sha256}; "
                "prepare it again with --force"
            )
    return manifest


def sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
