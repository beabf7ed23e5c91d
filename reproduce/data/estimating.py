"""Estimates the disk and the time that preparing a data set will take, from a sample of its own images."""

from __future__ import annotations

import hashlib
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from reproduce.data.encoding import UnreadableImageError, encode
from reproduce.data.manifest import SPLITS, DataError, PrepareOptions, Split
from reproduce.data.sources import source_from
from reproduce.limits import usable_cpus

SAMPLED = 48  # images of each split, spread evenly over it
HASHED = 1 << 26  # bytes of an archive that are hashed to measure the rate
CHECKED_SOURCE = "imagenet:"
UNCHECKED = ",checksums=off"


@dataclass(frozen=True)
class PreparationEstimate:
    """What preparing a data set on this machine will probably take."""

    images: dict[Split, int]
    classes: int
    bytes: int
    """Size of the prepared files."""
    seconds: float
    """Duration with all cores, without the wait for a disk that is slower than the encoding."""
    checking_seconds: float
    """Duration of comparing the archives with their checksums; 0 if this is not done."""
    sampled: int
    """Number of images from which this was estimated."""


def estimate_preparation(text: str, options: PrepareOptions) -> PreparationEstimate:
    """Estimate a preparation by listing the source and encoding a sample of its images. Nothing is kept.

    Args:
        text: The source, as `source_from` takes it.
        options: The options of the preparation.

    Raises:
        DataError: The source does not exist here, is damaged, or would have to be downloaded first.
    """
    if text in ("imagenette", "fashion-mnist"):
        raise DataError(f"--source: {text} may have to be downloaded first; name its files: {text}:PATH")
    checked = text.startswith(CHECKED_SOURCE) and UNCHECKED not in text
    with tempfile.TemporaryDirectory() as scratch:
        listing = source_from(text + UNCHECKED if checked else text).open(Path(scratch), lambda *_: None)
        size, seconds, sampled = 0.0, 0.0, 0
        for split in SPLITS:
            samples = listing.splits[split]
            chosen = samples[:: max(1, len(samples) // SAMPLED)][:SAMPLED]
            start, stored = time.perf_counter(), []
            for sample in chosen:
                try:
                    stored.append(len(encode(listing.reader.read(sample), sample.name, options).stored))
                except UnreadableImageError:
                    continue
            if not stored:
                raise DataError(f"--source: {text}: none of {len(chosen)} images of {split} can be read")
            seconds += (time.perf_counter() - start) / len(chosen) * len(samples)
            size += (float(np.mean(stored)) + 64) * len(samples)  # 64: metadata and allocation table
            sampled += len(stored)
    return PreparationEstimate(
        images={split: len(listing.splits[split]) for split in SPLITS},
        classes=len(listing.classes),
        bytes=int(size),
        seconds=seconds / usable_cpus(),
        checking_seconds=_checking_seconds(Path(text.split(":", 1)[1].split(",")[0]).expanduser()) if checked else 0.0,
        sampled=sampled,
    )


def _checking_seconds(folder: Path) -> float:
    """Estimate how long the MD5 of a folder's archives takes, which are hashed at the same time."""
    archives = sorted(folder.glob("ILSVRC2012_*"), key=lambda path: path.stat().st_size)
    largest = archives[-1]
    with largest.open("rb") as file:
        start = time.perf_counter()
        content = file.read(HASHED)
        hashlib.md5(content, usedforsecurity=False)
        seconds = time.perf_counter() - start
    return seconds / len(content) * largest.stat().st_size
