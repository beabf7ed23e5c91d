"""Fetches files that runs have in MLflow."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote, urlsplit

if TYPE_CHECKING:
    import pandas as pd
    from mlflow import MlflowClient

FETCHERS = 8
"""Number of threads, so that several requests to a server are under way at once."""
PROXIED = "/api/2.0/mlflow-artifacts/artifacts/"
"""The endpoint from which a server of MLflow sends artifacts that it keeps itself."""

log = logging.getLogger(__name__)


@contextmanager
def fetched(name: str, folders: Mapping[str, str], tracking_uri: str) -> Iterator[dict[str, Path]]:
    """Fetch an artifact of several runs. Those that a server sends are deleted when the context ends.

    Args:
        name: Path of the artifact within a run, for example "telemetry.parquet".
        folders: The URIs of the runs' folders of artifacts, by MLflow's ids of the runs.
        tracking_uri: URI of the MLflow store. MLflow is imported only for folders that are not on this machine.

    Yields:
        The paths of the files, by run. Runs without the artifact are left out, and so are runs whose artifacts cannot
        be reached from here, such as those in a folder of another machine.
    """
    local = {run_id: _local(uri) for run_id, uri in folders.items()}
    paths = {run_id: folder / name for run_id, folder in local.items() if folder and (folder / name).is_file()}
    elsewhere = [run_id for run_id, folder in local.items() if folder is None]
    if not elsewhere:
        yield paths
        return
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    client = MlflowClient(tracking_uri=tracking_uri)
    with tempfile.TemporaryDirectory(prefix="deeper-report-") as folder:

        def fetch(run_id: str) -> Path | None:
            place = Path(folder) / run_id
            place.mkdir()
            try:
                if (kept := _kept_by_server(folders[run_id])) is not None:
                    return _download(client, f"{kept}/{name}", place / Path(name).name)
                path = Path(client.download_artifacts(run_id, name, str(place)))
            except (MlflowException, OSError):  # what is missing has no place in the report, and does not end it
                return None
            return path if path.is_file() else None

        with ThreadPoolExecutor(FETCHERS) as pool:
            sent = list(pool.map(fetch, elsewhere))
        yield paths | {run_id: path for run_id, path in zip(elsewhere, sent, strict=True) if path is not None}


def read_artifact(path: Path, columns: Sequence[str] | None = None) -> pd.DataFrame | None:
    """Read a Parquet file that a run has in MLflow, and compare its pages with their checksums, if it has some.

    Args:
        path: The file, as `fetched` yields it.
        columns: The columns to read; None means all.

    Returns:
        The content. None for a damaged file, which has no place in a report; a warning names it.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    wanted = None if columns is None else list(columns)
    try:
        found: pd.DataFrame = pq.read_table(path, columns=wanted, page_checksum_verification=True).to_pandas()
    except (pa.ArrowException, OSError, ValueError) as error:
        log.warning("%s is damaged and left out: %s", path, " ".join(str(error).split()))
        return None
    return found


def _local(uri: str) -> Path | None:
    """Return the folder that a URI names on this machine; None for a URI of another kind."""
    parts = urlsplit(uri)
    if parts.scheme == "file" and parts.netloc in ("", "localhost"):
        return Path(unquote(parts.path))
    return Path(uri) if uri.startswith("/") else None


def _kept_by_server(uri: str) -> str | None:
    """Return the path of a folder that the tracking server keeps itself; None for a folder elsewhere."""
    parts = urlsplit(uri)
    return unquote(parts.path).strip("/") if parts.scheme == "mlflow-artifacts" and not parts.netloc else None


def _download(client: MlflowClient, source: str, target: Path) -> Path | None:
    """Fetch a file by one request; MLflow's client takes three, for each of which a server may check the password."""
    from mlflow.utils.credentials import get_default_host_creds
    from mlflow.utils.rest_utils import http_request

    response = http_request(get_default_host_creds(client.tracking_uri), PROXIED + quote(source), "GET")
    if not response.ok:
        return None
    target.write_bytes(response.content)
    return target
