"""The user's cache folder, and a folder within it for compiled libraries, to which no other user can write.

A process executes the libraries that it finds there. They are therefore kept in the user's own cache and not in a
shared folder such as /tmp, where another user could plant a library or a symbolic link under a predictable name. A
folder or file that belongs to another user is never used.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path


class UnsafeFolderError(Exception):
    """Raised if the folder for compiled libraries belongs to another user, who could plant a library in it."""


def cache() -> Path:
    """Return the project's folder in the user's cache, $XDG_CACHE_HOME/deeper or by default ~/.cache/deeper.

    The folder is not created.
    """
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "deeper"


def library_folder() -> Path:
    """Return the folder for compiled libraries, `cache() / "libraries"`, after making it safe to use.

    The folder and the cache folder are created if they do not exist. If their group or other users may write to them,
    that permission is removed.

    Raises:
        UnsafeFolderError: One of the two folders, or a symbolic link in its place, belongs to another user.
        OSError: A folder cannot be created or its permissions cannot be changed.
    """
    folder = cache() / "libraries"
    folder.parent.mkdir(parents=True, exist_ok=True)
    _make_private(folder.parent)
    folder.mkdir(mode=0o700, exist_ok=True)
    _make_private(folder)
    return folder


def is_trusted(library: Path) -> bool:
    """Whether the path is a regular file that belongs to this user and that no other user may write.

    False for a symbolic link and for a path that does not exist.
    """
    try:
        found = library.lstat()
    except FileNotFoundError:
        return False
    return stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & _WRITABLE_BY_OTHERS


_WRITABLE_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH


def _make_private(folder: Path) -> None:
    found = folder.stat()
    if {folder.lstat().st_uid, found.st_uid} != {os.geteuid()}:
        raise UnsafeFolderError(f"{folder}: belongs to another user")
    if found.st_mode & _WRITABLE_BY_OTHERS:
        folder.chmod(stat.S_IMODE(found.st_mode) & ~_WRITABLE_BY_OTHERS)
