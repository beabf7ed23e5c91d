"""Opens a tracking store for reading, by the fastest reader that understands it."""

from __future__ import annotations

import importlib.util
import logging
import os
import socket
from pathlib import Path
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

from analysis.reading.sqlite_store import open_sqlite
from analysis.reading.stored import Store
from reproduce.errors import UserError
from reproduce.text.redaction import redacted

SQLITE = "sqlite:///"
PORTS = {"http": 80, "https": 443}
"""The ports of servers whose address names none, by scheme. Stores of other schemes are no servers of MLflow."""
CONNECT_TIMEOUT_S = 2.0
"""Longest wait for the connection to a server. Its first answer may take longer."""


class AnalysisError(UserError):
    """Raised if a report or a claim cannot be computed from the tracking store.

    The message names what is missing and what exists instead.
    """


class NothingRecordedError(AnalysisError):
    """Raised if the tracking store does not exist or holds no run of the experiment."""


def open_store(tracking_uri: str) -> Store:
    """Open a tracking store for reading. The caller closes it.

    MLflow is imported only if the store is not an SQLite file that can be read without it. Its environment variables
    (retries, time limit of requests, telemetry) are then set for the whole process unless they are set already.

    Args:
        tracking_uri: URI of the MLflow store, for example `sqlite:///mlflow.db` or `http://host:5000`.

    Raises:
        NothingRecordedError: The URI names an SQLite file that does not exist.
        AnalysisError: MLflow is needed and not installed, the URI is none of a store, or no server listens there.
    """
    if tracking_uri.startswith(SQLITE):
        file = Path(unquote(tracking_uri.removeprefix(SQLITE).partition("?")[0]))
        if not file.is_file():  # MLflow would create an empty one
            raise NothingRecordedError(
                f"tracking_uri: no store {file}; if there are records, publish them first: deeper publish --once"
            )
        if (store := open_sqlite(file)) is not None:
            return store
    if importlib.util.find_spec("mlflow") is None:
        raise AnalysisError(
            "MLflow is not installed here, and reports are made from its store; make the report on another machine"
        )
    _require_listener(tracking_uri)  # before MLflow is imported, which takes seconds
    # With its own defaults, MLflow retries for four minutes when a server is down.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    logging.getLogger("alembic").setLevel(logging.WARNING)
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    from analysis.reading.mlflow_store import MlflowStore

    try:
        client = MlflowClient(tracking_uri=tracking_uri)
    except MlflowException as error:
        first_line = redacted(str(error).strip().splitlines()[0])
        raise AnalysisError(f"tracking_uri: {redacted(tracking_uri)} is no MLflow store: {first_line}") from error
    return MlflowStore(client)


def _require_listener(uri: str) -> None:
    """Raise `AnalysisError` unless something accepts connections at the address of a server; a proxy is not asked."""
    try:
        parts = urlsplit(uri)
        host, port = parts.hostname, parts.port or PORTS.get(parts.scheme, 0)
    except ValueError:  # MLflow says what is wrong with it
        return
    if host is None or parts.scheme not in PORTS or (parts.scheme in getproxies() and not proxy_bypass(host)):
        return
    try:
        socket.create_connection((host, port), timeout=CONNECT_TIMEOUT_S).close()
    except (OSError, UnicodeError) as error:  # the latter for a name that no host can have
        reason = getattr(error, "strerror", None) or error
        raise AnalysisError(
            f"tracking_uri: {redacted(uri)} does not answer: {reason}; is its server running?"
        ) from error
