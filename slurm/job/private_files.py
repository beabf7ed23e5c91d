"""Files and folders whose content other users of a machine cannot change.

Batch jobs of many users share `/tmp`, where anyone may create a file, a folder or a symbolic link under a name that is
easy to guess. The functions of this module therefore follow no link at the path that they are given and use nothing
that another user could have written.
"""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from pathlib import Path

from reproduce.atomic import write_atomically
from reproduce.errors import UserError

PRIVATE_FILE, PRIVATE_FOLDER = 0o600, 0o700
WRITABLE_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH


def write_private_file(path: Path, content: bytes) -> None:
    """Replace a file atomically by one that only its owner may read and write (mode 0600).

    The file never has another mode, and its content is on the disk when this returns.

    Args:
        path: The file, which need not exist; its folder must.
        content: The new content of the file.
    """
    write_atomically(path, content, mode=PRIVATE_FILE)


def make_private_folder(path: Path, field: str) -> Path:
    """Create a folder that only this user may use (mode 0700), or check an existing one.

    An existing folder must belong to this user, and no other user may write to it. Its permissions are not changed, so
    others may be able to read it.

    Args:
        path: The folder, whose parent must exist.
        field: The option or profile field that led to this folder, for the error message.

    Returns:
        `path`.

    Raises:
        UserError: The folder cannot be created, or the path is a symbolic link, is not a folder, belongs to another
            user, or may be written by other users.
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
    """Create a private folder (mode 0700) with an unpredictable name that starts with `prefix`.

    All other folders of this user with the same prefix are removed first, as leftovers of a process that was killed.
    Two live processes must therefore not use the same prefix. The caller removes the new folder.

    Args:
        parent: Folder in which the new folder is created.
        prefix: Beginning of its name.

    Returns:
        The new folder.
    """
    for leftover in parent.glob(f"{prefix}*"):
        if _distrust(leftover) is None:
            shutil.rmtree(leftover, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix=prefix, dir=parent))


def _distrust(path: Path) -> str | None:
    """Return the reason why another user may have written to a folder; None if no other user can."""
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
