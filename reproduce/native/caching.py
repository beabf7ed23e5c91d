"""The user's cache folder, and a folder within it for compiled libraries, to which no other user can write.

A process executes the libraries that it finds there. They are therefore kept in the user's own cache and not in a
shared folder such as /tmp, where another user could plant a library or a symbolic link under a predictable name. A
folder or file that belongs to another user is never used.
"""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path

from reproduce.files.private_folders import WRITABLE_BY_OTHERS, home, private_folder


def cache() -> Path:
    """Return the project's folder in the user's cache, $XDG_CACHE_HOME/deeper or by default ~/.cache/deeper.

    The folder is not created.

    Raises:
        UserError: The user has no home, and `reproduce.files.private_folders.home` cannot give another folder.
    """
    return Path(os.environ.get("XDG_CACHE_HOME") or home() / ".cache") / "deeper"


def library_folder() -> Path:
    """Return the private folder for compiled libraries, `cache() / "libraries"`.

    It and the cache folder are created if they do not exist, and closed to other users if they do.

    Raises:
        UserError: One of the two folders is not this user's own (`UnsafeFolderError`), or cannot be created.
        OSError: The folder above the cache folder cannot be created.
    """
    folder = cache()
    folder.parent.mkdir(parents=True, exist_ok=True)
    return private_folder(private_folder(folder) / "libraries")


def seal(library: Path) -> None:
    """Append the SHA-256 of a library to its file. The dynamic linker ignores what follows a library."""
    digest = hashlib.sha256(library.read_bytes()).digest()
    with library.open("ab") as file:
        file.write(digest)


def is_whole(library: Path) -> bool:
    """Whether a file ends with the SHA-256 of what precedes it, see `seal`. Damaged code may compute other numbers."""
    content = library.read_bytes()
    size = hashlib.sha256().digest_size
    return content[-size:] == hashlib.sha256(content[:-size]).digest()


def is_trusted(library: Path) -> bool:
    """Whether the path is a regular file that belongs to this user and that no other user may write.

    False for a symbolic link and for a path that does not exist.
    """
    try:
        found = library.lstat()
    except FileNotFoundError:
        return False
    return stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & WRITABLE_BY_OTHERS
