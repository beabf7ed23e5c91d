"""Checks that prepared files are those that their manifest describes, and reads each of them once for each change.

A file that has been compared gets a stamp, an entry of the user's cache. Its name is a hash of the file's name, number
(inode), size, SHA-256 and the times of its last changes, of which programs can set back only one (mtime, not ctime). A
file that is written to or replaced therefore has none. Data folders may
therefore be read-only, and the processes of a node, or the nodes that share a home, read a file once for all of them.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from reproduce.data.manifest import DamagedDataError, DataError, Manifest, beton, load_manifest, sha256
from reproduce.native.caching import cache


def verify(folder: Path) -> Manifest:
    """Load the manifest of a prepared folder and check the SHA-256 of its FFCV files, which are read in full.

    Raises:
        DataError: As `load_manifest`, or the SHA-256 of a file differs from that in the manifest (`DamagedDataError`).
    """
    manifest = load_manifest(folder)
    for split, expected in manifest.splits.items():
        with _stamp(beton(folder, split), expected.sha256) as stamp:
            _compare(beton(folder, split), expected.sha256, stamp)
    return manifest


def verify_changed(folder: Path, reading: Callable[[Path], None] = lambda file: None) -> Manifest:
    """Load and check as `verify`, but read only files that have changed since this user last had them checked.

    If another process is reading one of them, wait for it.

    Args:
        folder: The prepared folder.
        reading: Called with the path of a file before it is read.

    Raises:
        DataError: As `verify`.
    """
    manifest = load_manifest(folder)
    for split, expected in manifest.splits.items():
        file = beton(folder, split)
        with _stamp(file, expected.sha256) as stamp:
            if stamp is None or _is_empty(stamp):
                reading(file)
                _compare(file, expected.sha256, stamp)
    return manifest


def stamp_written(file: Path, written: str) -> None:
    """Stamp a file that this process has just written and whose SHA-256, in hexadecimal, it knows."""
    with _stamp(file, written) as stamp:
        _write(stamp, file)


def _compare(file: Path, expected: str, stamp: BinaryIO | None) -> None:
    before = _identity(file, expected)
    try:
        found = sha256(file)
    except OSError as error:
        raise DataError(f"{file}: cannot be read: {error.strerror}") from error
    if found != expected:
        raise DamagedDataError(
            f"{file}: changed or damaged since it was prepared: SHA-256 {found}, the manifest says {expected}; "
            "prepare it again with --force"
        )
    if _identity(file, expected) == before:
        _write(stamp, file)


def _identity(file: Path, expected: str) -> str:
    found = file.stat()
    content = [file.name, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns, expected]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


@contextlib.contextmanager
def _stamp(file: Path, expected: str) -> Iterator[BinaryIO | None]:
    """Open and lock the stamp of a file, which is empty until the file has been compared.

    Yields:
        The stamp; None if the cache cannot be written to, so that the file is compared whenever it is used.
    """
    place = cache() / "verified" / _identity(file, expected)[:32]
    with contextlib.ExitStack() as opened:
        stamp: BinaryIO | None = None
        with contextlib.suppress(OSError):
            place.parent.mkdir(parents=True, exist_ok=True)
            stamp = opened.enter_context(open(place, "ab", buffering=0))
            fcntl.flock(stamp, fcntl.LOCK_EX)
        yield stamp


def _is_empty(stamp: BinaryIO) -> bool:
    return os.fstat(stamp.fileno()).st_size == 0


def _write(stamp: BinaryIO | None, file: Path) -> None:
    if stamp is not None and _is_empty(stamp):
        with contextlib.suppress(OSError):  # without a stamp, the file is only compared again
            stamp.write(f"{file.absolute()}\n".encode())
