"""Finds the tracking store of a folder of records and the folder of its artifacts. Does not import MLflow."""

from __future__ import annotations

import getpass
import hashlib
import os
import socket
from pathlib import Path

from bench.machine.filesystems import filesystem
from bench.machine.private_folders import private_folder

LOCAL_DISK = Path("/var/tmp")
"""The folder below which the SQLite store is kept if the records are on a network file system.

Like /tmp, this folder is shared by all users.
"""


def tracking_uri(records: Path) -> str:
    """Return the URI of the tracking store of these records.

    The URI is $MLFLOW_TRACKING_URI if that is set, otherwise that of the SQLite file `<records>/mlflow.db`. SQLite is
    not safe on network file systems: if the records are on one, the file is on this host's disk, in a folder below
    `LOCAL_DISK` that only this user can enter and that this function creates. The store itself need not exist yet; it
    can be filled from the records again at any time.

    Args:
        records: The folder of the records, which need not exist yet.

    Raises:
        UserError: The path of the folder below `LOCAL_DISK` is a link, is not a folder, or belongs to another user.
    """
    configured = os.environ.get("MLFLOW_TRACKING_URI")
    if configured:
        return configured
    records = records.resolve()
    if not filesystem(records).is_network:
        return f"sqlite:///{records}/mlflow.db"
    folder = private_folder(LOCAL_DISK / f"deeper-{getpass.getuser()}")
    digest = hashlib.sha256(os.fsencode(records)).hexdigest()[:8]
    # Cursors are kept by URI. With its name in the path, each host has its own, as it has its own store.
    return f"sqlite:///{folder}/{socket.gethostname()}-{digest}/mlflow.db"


def store_exists(uri: str) -> bool:
    """Return whether the SQLite file of a tracking store exists; True for a server, which is not contacted."""
    return not uri.startswith("sqlite:///") or Path(uri.removeprefix("sqlite:///")).is_file()


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
