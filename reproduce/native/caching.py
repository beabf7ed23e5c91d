"""The user's cache folder, and in it a folder for compiled libraries that no other user can write.

The process executes the libraries that it finds there. They are therefore kept in the user's own cache rather than in a
shared folder such as /tmp, where another user could plant a library or a symbolic link under a name that is known in
advance, and a folder or file that belongs to another user is never used.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path


class UnsafeFolderError(Exception):
    """Another user could put a library into the folder; the message says why."""


def cache() -> Path:
    """The suite's folder in the user's cache: $XDG_CACHE_HOME/deeper, by default ~/.cache/deeper."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "deeper"


def library_folder() -> Path:
    """The folder of compiled libraries, `cache() / "libraries"`, which is created if need be.

    Raises:
        UnsafeFolderError: It, the cache folder, or a symbolic link in place of either belongs to another user.
        OSError: It cannot be created.
    """
    folder = cache() / "libraries"
    folder.parent.mkdir(parents=True, exist_ok=True)
    _make_private(folder.parent)
    folder.mkdir(mode=0o700, exist_ok=True)
    _make_private(folder)
    return folder


def is_trusted(library: Path) -> bool:
    """Whether the path is a regular file of this user that no other user can write."""
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
