"""Files that are replaced as a whole: a reader finds the old content or the new one, whenever a writer is killed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

DEFAULT_MODE = 0o666


@contextmanager
def replacing(path: Path, *, durable: bool = True, mode: int = DEFAULT_MODE) -> Iterator[BinaryIO]:
    """Open a file that takes the name `path` once the block has ended; if the block fails, the old content stays.

    Several processes may write to one path; the last one wins.

    Args:
        path: the file to write or replace.
        durable: whether the new content survives a power cut once the block has ended.
        mode: permissions with which the file is created, before the umask; 0o600 for a secret, which no other user can
            then read at any moment.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with _create(partial, mode) as file:
            yield file
            if durable:
                file.flush()
                os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    if durable:
        sync_folder(path.parent)


def _create(path: Path, mode: int) -> BinaryIO:
    opener = None if mode == DEFAULT_MODE else lambda name, flags: os.open(name, flags, mode)
    try:
        return open(path, "xb", opener=opener)
    except FileExistsError:  # left behind by a killed process that had the same number
        path.unlink()
        return open(path, "xb", opener=opener)


def write_atomically(path: Path, content: bytes, *, durable: bool = True, mode: int = DEFAULT_MODE) -> None:
    """Replace a file by `content`; see `replacing`."""
    with replacing(path, durable=durable, mode=mode) as file:
        file.write(content)


def sync_folder(folder: Path) -> None:
    """Write a folder's entries to the disk; without it a new name may be lost in a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
