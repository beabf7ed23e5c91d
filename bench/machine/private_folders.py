"""Folders that only this user can enter, at predictable paths that others could have taken first."""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path

from reproduce.errors import UserError


def private_folder(path: Path) -> Path:
    """Create a folder with mode 0700, or take an existing one of this user's and close it to everybody else.

    In /tmp or /var/tmp anybody may have put a link or a folder of theirs at a path that can be guessed.

    Args:
        path: the folder; its parent must exist.

    Returns:
        The same path.

    Raises:
        UserError: if the path is a symbolic link, no folder, or another user's.
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


def _refusal(path: Path, reason: str) -> str:
    if path.is_symlink():
        reason = f"it is a symbolic link to {os.readlink(path)}"
    return f"{path}: {reason}; it must be a folder of this user's and no link. Remove it, or have its owner do so"
