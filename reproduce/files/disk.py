"""Turns the errors of a full disk into one that names the file, the disk and the free bytes."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from reproduce.errors import CannotContinueError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""The errors of a write for which there is no room: on the disk, within a quota, within the largest size of a file."""
REFUSED = (
    *(errno.EISDIR, errno.ENOTDIR, errno.EACCES, errno.EPERM, errno.EROFS),
    *(errno.EIO, errno.ESTALE, errno.ELOOP, errno.ENAMETOOLONG),
)
"""The errors by which a file system refuses a path: a folder in place of a file, a missing right, a disk that fails."""


SCARCE_BYTES = 4 * 2**20
"""Free bytes below which a disk counts as full for a database, which needs room for its changes beside the file."""
PROBE_BYTES = 2**16


class DiskFullError(CannotContinueError):
    """Raised if a file cannot be written because the disk, a quota or the limit on the size of files is exhausted.

    The message names the file, the disk and its free space in bytes.
    """


@contextmanager
def naming_full_disk(path: Path) -> Iterator[None]:
    """Raise `DiskFullError` in place of an `OSError` that says that there is no room for a file.

    Args:
        path: The file that is written in the `with` block, or a folder in which several files are.

    Raises:
        DiskFullError: The disk is full, or a quota or the limit on the size of files is reached.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise DiskFullError(describe_full_disk(error, path)) from error


def describe_full_disk(error: OSError, path: Path) -> str:
    """Compose one sentence on an error whose number is in `FULL`.

    Args:
        error: The error.
        path: The file that could not be written. It and its folder need not exist.
    """
    if error.errno == errno.EFBIG:
        limit = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
        return f"{path} cannot be written: a file may have at most {limit} bytes here; raise the limit (ulimit -f)"
    disk = path.absolute()
    while not disk.exists() or not disk.is_mount():
        disk = disk.parent
    usage = shutil.disk_usage(disk)
    return (
        f"{path} cannot be written: the disk {disk} is full ({error.strerror}): {usage.free} of {usage.total} bytes "
        "are free, and the file needs more; make room and repeat the command"
    )


def why_no_room(path: Path) -> str | None:
    """Find out whether a database can grow, by the free bytes and by a small file that is written and removed.

    Args:
        path: The file of the database. Its folder must exist.

    Returns:
        A sentence as `describe_full_disk` composes it. None if there is room, or if something else is missing.
    """
    try:
        if shutil.disk_usage(path.parent).free < SCARCE_BYTES:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        with tempfile.TemporaryFile(dir=path.parent, buffering=0) as file:
            file.write(bytes(PROBE_BYTES))
            os.fsync(file.fileno())  # a network file system knows its quotas only then
    except OSError as error:
        return describe_full_disk(error, path) if error.errno in FULL else None
    return None
