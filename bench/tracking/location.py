"""Finds the tracking store of a folder of records and the folder of its artifacts. Does not import MLflow."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import socket
import sqlite3
from pathlib import Path
from urllib.parse import unquote

from bench.machine.filesystems import filesystem
from bench.machine.proxies import except_this_machine
from bench.tracking.mlflow_setup import URI, without_credentials
from reproduce.errors import UserError
from reproduce.files.private_folders import local_folder

SQLITE = "sqlite:///"
LOCK = "lock"
"""The file in `<records>/publisher` that holds the lease of the publisher that is at work."""


def tracking_uri(records: Path, given: str | None = None) -> str:
    """Return the URI of the tracking store of these records.

    The URI is `given` or $MLFLOW_TRACKING_URI if one of them is set, otherwise that of the SQLite file
    `<records>/mlflow.db`. SQLite is not safe on network file systems: if the records are on one, the file is on this
    host's disk, in `reproduce.files.private_folders.local_folder()`, which is created. The store itself need not exist
    yet; it can be filled from the records again at any time.

    The environment of this process is made ready for connections to the store: a password in the URI of a server goes
    to the variables that MLflow reads (see `without_credentials`), and a server on this machine is reached without a
    proxy (see `except_this_machine`).

    Args:
        records: The folder of the records, which need not exist yet.
        given: The URI that an option names, if any.

    Returns:
        The URI. That of an HTTP server holds no password.

    Raises:
        UserError: The URI of a server is malformed, MLflow cannot keep an SQLite file in the folder of the records, or
            the folder on this host's disk cannot be used.
    """
    except_this_machine()
    if given:
        return without_credentials(given)
    if os.environ.get(URI):
        os.environ[URI] = without_credentials(os.environ[URI])
        return os.environ[URI]
    return embedded_uri(records)


def embedded_uri(records: Path) -> str:
    """Return the URI of the SQLite file that is the tracking store of these records if no other store is named.

    Args:
        records: The folder of the records, which need not exist yet.

    Raises:
        UserError: See `tracking_uri`.
    """
    records = records.resolve()
    if not filesystem(records).is_network:
        return _sqlite_uri(records)
    digest = hashlib.sha256(os.fsencode(records)).hexdigest()[:8]
    # Cursors are kept by URI. With its name in the path, each host has its own, as it has its own store.
    return _sqlite_uri(local_folder() / f"{socket.gethostname()}-{digest}")


def _sqlite_uri(folder: Path) -> str:
    path = str(folder)
    problem = None
    if found := re.search(r"\?|%[0-9a-f]{2}", path, re.IGNORECASE):
        # SQLAlchemy would decode an escape of it, but MLflow would create a second folder, with the escape in its name.
        problem = f"{found[0]!r}"
    elif os.fsencode(path).decode(errors="replace") != path:
        problem = "a character that is not UTF-8"
    if problem:
        raise UserError(
            f"records: {path!r} holds {problem}, and MLflow cannot keep its SQLite file in such a folder; "
            f"use another folder, or name a server in {URI}"
        )
    return f"{SQLITE}{path}/mlflow.db"


def sqlite_file(uri: str) -> Path | None:
    """Return the path of the SQLite file of a tracking store, or None for a store of another kind."""
    return Path(unquote(uri.removeprefix(SQLITE).partition("?")[0])) if uri.startswith(SQLITE) else None


def use_write_ahead_log(uri: str) -> None:
    """Let readers of an SQLite store read while it is written. Servers, and files on network file systems, stay as are.

    SQLite remembers the mode in the file. Where the file is busy, the next publisher sets it.

    Args:
        uri: The URI of a tracking store that exists.
    """
    file = sqlite_file(uri)
    if file is None or filesystem(file.parent).is_network:
        return
    with (
        contextlib.closing(sqlite3.connect(file, timeout=20)) as database,
        contextlib.suppress(sqlite3.OperationalError),
    ):
        database.execute("PRAGMA journal_mode = WAL")


def store_exists(uri: str) -> bool:
    """Return whether the SQLite file of a tracking store exists; True for a server, which is not contacted."""
    file = sqlite_file(uri)
    return file is None or file.is_file()


def artifact_location(records: Path, uri: str, experiment: str) -> str | None:
    """Return the URI of the folder in which a new experiment keeps its artifacts.

    Args:
        records: The folder of the records, as an absolute path.
        uri: The URI of the tracking store.
        experiment: The name of the experiment.

    Returns:
        The `file:` URI of `<records>/mlartifacts/<experiment>` for an SQLite store. None for a server, which chooses
        the place itself.
    """
    return (records / "mlartifacts" / experiment).as_uri() if uri.startswith("sqlite:") else None


def log_file(records: Path, name: str) -> Path:
    """Return the path of a background process's log, `<records>/logs/<name>.log`, and create its folder."""
    path = records / "logs" / f"{name}.log"
    path.parent.mkdir(parents=True, exist_ok=True)
    return path
