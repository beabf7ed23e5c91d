"""Creates folders that only this user can enter, at predictable paths that other users may have taken before."""

from __future__ import annotations

import contextlib
import os
import stat
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


def _refusal(path: Path, reason: str) -> str:
    if path.is_symlink():
        reason = f"it is a symbolic link to {os.readlink(path)}"
    return f"{path}: {reason}; it must be a folder of this user's and no link. Remove it, or have its owner do so"
