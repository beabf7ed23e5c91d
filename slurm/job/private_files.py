"""Files and folders that other users of a machine can neither read nor replace.

Batch jobs of many users share `/tmp`, where anyone may create a file, a folder or a symbolic link under a name that is
easy to guess. So nothing here follows a link, and nothing that another user could have written is used.
"""

from __future__ import annotations

import os
import secrets
import shutil
import stat
import tempfile
from pathlib import Path

from reproduce.atomic import sync_folder
from reproduce.errors import UserError

PRIVATE_FILE, PRIVATE_FOLDER = 0o600, 0o700
WRITABLE_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH


def write_private_file(path: Path, content: bytes) -> None:
    """Replace a file, atomically and durably, by one that nobody but its owner can read at any time."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, PRIVATE_FILE)
    try:
        with open(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def make_private_folder(path: Path, field: str) -> Path:
    """Create a folder for this user alone, or check that the existing one is.

    Args:
        path: The folder; its parent exists.
        field: The option or profile field that led to this folder, for the error message.

    Returns:
        `path`.

    Raises:
        UserError: The path is a symbolic link or no folder, belongs to another user, or can be written by others.
    """
    try:
        path.mkdir(mode=PRIVATE_FOLDER)
    except FileExistsError:
        pass
    except OSError as error:
        raise UserError(
            f"{field}: {path} cannot be created: {error.strerror}; name a folder that jobs may write to"
        ) from error
    if problem := _distrust(path):
        raise UserError(f"{field}: {path} {problem}, so its content is not used; remove it or name another folder")
    return path


def make_temporary_folder(parent: Path, prefix: str) -> Path:
    """Create a private folder with an unpredictable name that starts with `prefix`.

    Earlier folders of this user with the same prefix are removed: their process was killed before it could do so.
    """
    for leftover in parent.glob(f"{prefix}*"):
        if _distrust(leftover) is None:
            shutil.rmtree(leftover, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix=prefix, dir=parent))


def _distrust(path: Path) -> str | None:
    """Why a folder may hold what another user has written; None if it cannot."""
    try:
        status = path.lstat()
    except FileNotFoundError:
        return "has vanished"
    if stat.S_ISLNK(status.st_mode):
        return "is a symbolic link"
    if not stat.S_ISDIR(status.st_mode):
        return "is not a folder"
    if status.st_uid != os.getuid():
        return f"belongs to the user with id {status.st_uid}"
    if status.st_mode & WRITABLE_BY_OTHERS:
        return "can be written by other users"
    return None
