"""Replace files atomically: even if the writer is killed, a reader finds either the old content or the new one."""

from __future__ import annotations

import functools
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from reproduce.files.disk import naming_full_disk

DEFAULT_MODE, PRIVATE = 0o666, 0o600
BUFFER_BYTES = 8 * 2**20  # a network file system answers every write, and a checkpoint has hundreds of tensors


@contextmanager
def replacing(path: Path, *, durable: bool = True, mode: int = DEFAULT_MODE) -> Iterator[BinaryIO]:
    """Open a temporary file beside `path` that replaces `path` when the `with` block ends.

    If the block raises, `path` keeps its old content and the temporary file is removed. Several threads, processes and
    hosts may write to one path at the same time, and the last one to finish wins.

    Args:
        path: The file to write or replace. Its folder must exist.
        durable: Whether the new content survives a power cut once the block has ended.
        mode: Permissions with which the file is created, before the umask. With `PRIVATE`, for a secret, no other user
            can read the file at any moment.

    Yields:
        The temporary file, open for writing bytes. It is closed when the block ends.

    Raises:
        DiskFullError: There is no room for the file.
        OSError: The file could not be written for another reason.
    """
    partial = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    opener = None if mode == DEFAULT_MODE else functools.partial(os.open, mode=mode)
    with naming_full_disk(path):
        try:
            with open(partial, "xb", buffering=BUFFER_BYTES, opener=opener) as file:
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


def remove_partial_files(folder: Path) -> None:
    """Remove the temporary files of `replacing` from a folder into which no process is writing. Killed ones leave them.

    Args:
        folder: A folder whose files are all replaced by this module, under a lock that the caller holds.
    """
    for path in folder.iterdir():
        if re.fullmatch(r"\..+\.([0-9]+|[0-9a-f]{16})", path.name):
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
