"""Fetches files of runs from a tracking server that keeps them itself, and reads the events of a run among them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote, urlsplit

import numpy as np

from reproduce import schema
from reproduce.text.sealing import unsealed

if TYPE_CHECKING:
    from mlflow import MlflowClient

PROXIED = "/api/2.0/mlflow-artifacts/artifacts/"
"""The endpoint from which a server of MLflow sends artifacts that it keeps itself."""


def kept_by_server(uri: str) -> str | None:
    """Return the path of a folder that the tracking server keeps itself; None for a folder elsewhere."""
    parts = urlsplit(uri)
    return unquote(parts.path).strip("/") if parts.scheme == "mlflow-artifacts" and not parts.netloc else None


def fetch_kept(client: MlflowClient, path: str) -> bytes | None:
    """Fetch a file by one request; MLflow's client takes three, for each of which a server may check the password.

    Args:
        client: The client of the server.
        path: The path of the file, below a path from `kept_by_server`.

    Returns:
        The content, or None if the server does not send it.

    Raises:
        MlflowException: The server does not answer.
    """
    from mlflow.utils.credentials import get_default_host_creds
    from mlflow.utils.rest_utils import http_request

    response = http_request(get_default_host_creds(client.tracking_uri), PROXIED + quote(path), "GET")
    content: bytes = response.content
    return content if response.ok else None


def epoch_metrics(events: bytes) -> dict[str, np.ndarray] | None:
    """Read the metrics of all epochs from the content of a run's `events.jsonl`.

    Returns:
        For each metric, by name, its steps and values in the order in which they were written, float64 [n, 2]. Values
        may be infinite or NaN. None if a line is damaged.
    """
    found: dict[str, list[tuple[int, float]]] = {}
    for line in events.splitlines():
        try:
            event = json.loads(unsealed(line) or b"")
            if event["kind"] != schema.EPOCH:
                continue
            for name, value in event["metrics"].items():
                found.setdefault(name, []).append((event["epoch"], float(value)))
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            return None
    return {name: np.array(points, dtype=float) for name, points in found.items()}
