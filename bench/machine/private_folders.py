"""Creates folders that only this user can enter, at predictable paths that other users may have taken before."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from reproduce.errors import UserError


def private_folder(path: Path) -> Path:
    """Create a folder that only this user can enter, or close an existing folder of this user to everybody else.

    In /tmp and /var/tmp, any user may have put a link or a folder at a path that can be guessed.

    Args:
        path: The folder, which gets mode 0700 if it is new or open to others. Its parent must exist.

    Returns:
        The argument `path`.

    Raises:
        UserError: The path is a symbolic link, is not a folder, or belongs to another user.
    """
    with contextlib.suppress(FileExistsError):
        os.mkdir(path, 0o700)
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError as error:  # ELOOP or ENOTDIR for a link or a file, EACCES for a closed folder of another user
        raise UserError(_refusal(path, error.strerror or "it cannot be opened")) from None
    try:
        status = os.fstat(descriptor)
        if status.st_uid != os.geteuid():
            raise UserError(_refusal(path, f"it belongs to user {status.st_uid}"))
        if stat.S_IMODE(status.st_mode) & 0o077:
            os.fchmod(descriptor, 0o700)
    finally:
        os.close(descriptor)
    return path


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


def _refusal(path: Path, reason: str) -> str:
    if path.is_symlink():
        reason = f"it is a symbolic link to {os.readlink(path)}"
    return f"{path}: {reason}; it must be a folder of this user's and no link. Remove it, or have its owner do so"
