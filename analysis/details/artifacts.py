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
from urllib.parse import unquote, urlsplit

from analysis.reading.kept_files import fetch_kept, kept_by_server

if TYPE_CHECKING:
    import pandas as pd

FETCHERS = 8
"""Number of threads, so that several requests to a server are under way at once."""

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
                if (kept := kept_by_server(folders[run_id])) is not None:
                    return _written(fetch_kept(client, f"{kept}/{name}"), place / Path(name).name)
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


def _written(content: bytes | None, path: Path) -> Path | None:
    if content is None:
        return None
    path.write_bytes(content)
    return path
