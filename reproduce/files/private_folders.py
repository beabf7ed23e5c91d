"""Folders of this user's own, also where any user may have put a link or a folder at a path that can be guessed.

The jobs and commands of many users share /tmp and /var/tmp. The functions of this module follow no link at the path
that they are given, and use no folder that holds something of another user.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import stat
from pathlib import Path

from reproduce.errors import UserError

LOCAL_DISK = Path("/var/tmp")
"""A folder on this host's own disk. All users share it, and it outlives a restart of the host."""

CLOSED = 0o700
OPEN_TO_OTHERS = 0o077
WRITABLE_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH


class UnsafeFolderError(UserError):
    """Raised if another user may have written to a folder, or may have put a link in its place."""


def home() -> Path:
    """Return the user's home; for a user without one, such as an unknown id in a container, `local_folder()`."""
    try:
        return Path.home()
    except RuntimeError:
        return local_folder()


def provide_home() -> None:
    """Let the libraries of this process and of its children write to a home: to `local_folder()` if there is none.

    Ray and MLflow write to $HOME, or end without one. A container that is started with a number for its user has none,
    and on the nodes of some clusters it cannot be written. Configuration is then still read from there.

    Raises:
        UserError: See `local_folder`.
    """
    try:
        given = Path.home()
    except RuntimeError:
        os.environ["HOME"] = str(local_folder())
        return
    nearest = given if given.exists() else given.parent
    if not os.access(nearest, os.W_OK | os.X_OK):
        local = local_folder()
        os.environ["HOME"] = str(local)
        os.environ.setdefault("XDG_CONFIG_HOME", str(given / ".config"))
        os.environ.setdefault("MPLCONFIGDIR", str(local / "matplotlib"))


def local_folder() -> Path:
    """Return this user's private folder on the host's own disk, `/var/tmp/deeper-USER`, and create it if necessary.

    A user who has no name has the number of the user in its place.

    Raises:
        UserError: The folder is not this user's (`UnsafeFolderError`), or cannot be created.
    """
    try:
        name = getpass.getuser()
    except (KeyError, OSError):  # the latter from Python 3.13 on
        name = str(os.geteuid())
    return private_folder(LOCAL_DISK / f"deeper-{name}")


def private_folder(path: Path, field: str | None = None) -> Path:
    """Create a folder that only this user can enter (mode 0700), or close an existing folder of this user to others.

    Args:
        path: The folder. Its parent must exist.
        field: The option or field that led to this folder, with which the error message begins.

    Returns:
        The argument `path`.

    Raises:
        UnsafeFolderError: The path is a symbolic link or not a folder, the folder belongs to another user, or others
            could write to it until now and something in it belongs to another user.
        UserError: The folder cannot be created.
    """
    where = f"{field}: {path}" if field else str(path)
    try:
        with contextlib.suppress(FileExistsError):
            path.mkdir(mode=CLOSED)
    except OSError as error:
        raise UserError(f"{where} cannot be created: {error.strerror}; name a folder that you may write to") from error
    if problem := _close_to_others(path):
        raise UnsafeFolderError(f"{where} {problem}, so its content is not used; remove it or name another folder")
    return path


def _close_to_others(path: Path) -> str | None:
    """Take the permissions of others on a folder away. Returns the reason why it is not to be trusted, or None."""
    try:
        folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError as error:  # ELOOP or ENOTDIR for a link, ENOTDIR for a file, EACCES for a folder of another user
        if path.is_symlink():
            return f"is a symbolic link to {os.readlink(path)}"
        return "is not a folder" if path.exists() and not path.is_dir() else f"cannot be opened: {error.strerror}"
    try:
        status = os.fstat(folder)
        if status.st_uid != os.geteuid():
            return f"belongs to the user with id {status.st_uid}"
        if status.st_mode & OPEN_TO_OTHERS:
            os.fchmod(folder, CLOSED)
        if status.st_mode & WRITABLE_BY_OTHERS:
            for name in os.listdir(folder):
                owner = os.stat(name, dir_fd=folder, follow_symlinks=False).st_uid
                if owner != os.geteuid():
                    return f"could be written by others, and {name} in it belongs to the user with id {owner}"
    finally:
        os.close(folder)
    return None
