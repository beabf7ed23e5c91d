"""Replace files atomically: even if the writer is killed, a reader finds either the old content or the new one."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

DEFAULT_MODE = 0o666


@contextmanager
def replacing(path: Path, *, durable: bool = True, mode: int = DEFAULT_MODE) -> Iterator[BinaryIO]:
    """Open a temporary file beside `path` that replaces `path` when the `with` block ends.

    If the block raises, `path` keeps its old content and the temporary file is removed. Several processes of one
    machine may write to one path at the same time, and the last one to finish wins. Threads of one process must not.

    Args:
        path: The file to write or replace. Its folder must exist.
        durable: Whether the new content survives a power cut once the block has ended.
        mode: Permissions with which the file is created, before the umask. With 0o600, for a secret, no other user can
            read the file at any moment.

    Yields:
        The temporary file, open for writing bytes. It is closed when the block ends.

    Raises:
        OSError: The file could not be written, for example on a full disk.
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


def remove_partial_files(folder: Path) -> None:
    """Remove the temporary files of `replacing` from a folder into which no process is writing. Killed ones leave them.

    Args:
        folder: A folder whose files are all replaced by this module, under a lock that the caller holds.
    """
    for path in folder.iterdir():
        if re.fullmatch(r"\..+\.\d+", path.name):
            path.unlink(missing_ok=True)


def write_atomically(path: Path, content: bytes, *, durable: bool = True, mode: int = DEFAULT_MODE) -> None:
    """Replace the content of a file by `content`, or create the file. Arguments and errors are those of `replacing`."""
    with replacing(path, durable=durable, mode=mode) as file:
        file.write(content)


def sync_folder(folder: Path) -> None:
    """Write the entries of a folder to the disk, so that new or changed names in it survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
