"""Creates temporary folders whose paths are short enough for sockets, and removes those of killed processes."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from reproduce.errors import UserError

ALTERNATIVES = ("/tmp", "/var/tmp")
"""Folders that take the place of the system's folder for temporary files where the path of that is too long."""


@dataclass
class TemporaryFolder:
    """A folder of this process alone. As a context manager, it yields its path and removes the folder at the end."""

    path: Path
    """The folder, with mode 0700 and a name that cannot be guessed."""
    _lock: int | None

    def remove(self) -> None:
        """Remove the folder with its content. May be called more than once."""
        shutil.rmtree(self.path, ignore_errors=True)  # a process that is just ending may still write into it
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def __enter__(self) -> Path:
        return self.path

    def __exit__(self, *exception: object) -> None:
        self.remove()


def temporary_folder(prefix: str, *, longest: int, parents: Sequence[str] = ()) -> TemporaryFolder:
    """Create a folder for this process alone, which the caller removes.

    Folders of this user with the same prefix whose processes were killed are removed as well. A process holds a lock
    (`flock`) on its folder, which the kernel releases with the process.

    Args:
        prefix: The beginning of the folder's name, to which eight letters are added.
        longest: The most bytes of the folder's path, such as for sockets in it.
        parents: Where the folder may lie: in the first of these folders that can be written and is short enough. By
            default these are the system's folder for temporary files (TMPDIR) and `ALTERNATIVES`.

    Raises:
        UserError: None of these folders can be written.
    """
    fitting = longest - len(prefix) - len("/abcdefgh")
    places = parents or (tempfile.gettempdir(), *ALTERNATIVES)
    fit = [Path(place) for place in dict.fromkeys(places) if len(os.fsencode(place)) <= fitting]
    for parent in fit:
        _remove_abandoned(parent, prefix)
    reasons = [] if fit else [f"{', '.join(places)}: the path may have {fitting} bytes at most"]
    for parent in fit:
        try:
            while True:
                folder = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
                lock = _lock(folder)
                if lock is not None and folder.exists():
                    return TemporaryFolder(folder, lock)
                if lock is not None:  # another process took the folder for an abandoned one before it was locked
                    os.close(lock)
        except OSError as error:
            reasons.append(f"{parent}: {error.strerror}")
    field = "" if parents else "TMPDIR: "
    raise UserError(f"{field}no folder for temporary files can be written: {'; '.join(reasons)}")


def _remove_abandoned(parent: Path, prefix: str) -> None:
    """Remove the folders of this user that no process holds."""
    with suppress(OSError):
        for folder in parent.glob(f"{prefix}*"):
            if (lock := _lock(folder)) is not None:
                if os.fstat(lock).st_uid == os.geteuid():
                    shutil.rmtree(folder, ignore_errors=True)
                os.close(lock)


def _lock(folder: Path) -> int | None:
    """Return a file descriptor that holds the lock of a folder.

    None if a process holds it, if the folder is gone or of another user, and for a link or a file in its place.
    """
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
