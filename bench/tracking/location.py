"""Where records are published to: the tracking store, and the folder of its artifacts. Does not import MLflow."""

from __future__ import annotations

import getpass
import hashlib
import os
import socket
from pathlib import Path

from bench.machine.filesystems import filesystem
from bench.machine.private_folders import private_folder

LOCAL_DISK = Path("/var/tmp")
"""Where the store is if the records are on a network file system; like /tmp it is shared by all users."""


def tracking_uri(records: Path) -> str:
    """Find the tracking store of these records.

    It is $MLFLOW_TRACKING_URI if that is set, else an SQLite file beside the records. SQLite is not safe on network
    file systems: if the records are on one, the file is on a local disk, in a folder for this user alone that this
    function creates. The store can be filled again from the records at any time.

    Raises:
        UserError: if somebody else has taken the path of that folder.
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
    """Whether a store in a file exists; a server is taken to exist."""
    return not uri.startswith("sqlite:///") or Path(uri.removeprefix("sqlite:///")).is_file()


def artifact_location(records: Path, uri: str, experiment: str) -> str | None:
    """Where the artifacts of a new experiment go: beside the records, or where a server decides (None)."""
    return (records / "mlartifacts" / experiment).as_uri() if uri.startswith("sqlite:") else None


def log_file(records: Path, name: str) -> Path:
    """The log of a background process; its folder is created."""
    path = records / "logs" / f"{name}.log"
    path.parent.mkdir(parents=True, exist_ok=True)
    return path
