"""Creates temporary folders whose paths are short enough for sockets, and removes those of killed processes."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from reproduce.errors import UserError


@contextlib.contextmanager
def temporary_folder(prefix: str, *, longest: int) -> Iterator[Path]:
    """Create a folder for this process alone, and remove it with its content at the end of the `with` block.

    Folders of the same prefix whose processes were killed are removed as well. A process holds a lock (`flock`) on its
    folder, which the kernel releases with the process.

    Args:
        prefix: The beginning of the folder's name, to which eight letters are added.
        longest: The most bytes of the folder's path, such as for sockets in it. The folder lies in the system's folder
            for temporary files (TMPDIR) if that is short enough, otherwise in /tmp or /var/tmp.

    Yields:
        The path of the folder, with mode 0700.

    Raises:
        UserError: None of these folders can be written.
    """
    fitting = longest - len(prefix) - len("/abcdefgh")
    places = (tempfile.gettempdir(), "/tmp", "/var/tmp")
    parents = [Path(place) for place in dict.fromkeys(places) if len(os.fsencode(place)) <= fitting]
    for parent in parents:
        _remove_abandoned(parent, prefix)
    folder, lock = _create_locked(parents, prefix)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)  # a process that is just ending may still write into it
        os.close(lock)


def _create_locked(parents: list[Path], prefix: str) -> tuple[Path, int]:
    reasons = []
    for parent in parents:
        try:
            while True:
                folder = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
                lock = _lock(folder)
                if lock is not None and folder.exists():
                    return folder, lock
                if lock is not None:  # another process took the folder for an abandoned one before it was locked
                    os.close(lock)
        except OSError as error:
            reasons.append(f"{parent}: {error.strerror}")
    raise UserError(f"TMPDIR: no folder for temporary files can be written: {'; '.join(reasons)}")


def _remove_abandoned(parent: Path, prefix: str) -> None:
    """Remove the folders of this user that no process holds."""
    with contextlib.suppress(OSError):
        for folder in parent.glob(f"{prefix}*"):
            if folder.is_symlink() or not folder.is_dir() or folder.stat().st_uid != os.geteuid():
                continue
            if (lock := _lock(folder)) is not None:
                shutil.rmtree(folder, ignore_errors=True)
                os.close(lock)


def _lock(folder: Path) -> int | None:
    """Return a file descriptor that holds the lock of a folder, or None if a process holds it or the folder is gone."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor
