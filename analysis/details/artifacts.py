"""Fetches files that runs have in MLflow."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

FETCHERS = 8
"""Number of threads, so that several requests to a server are under way at once."""


@contextmanager
def fetched(name: str, run_ids: Sequence[str], tracking_uri: str) -> Iterator[dict[str, Path]]:
    """Fetch an artifact of several runs. Those that a server sends are deleted when the context ends.

    Args:
        name: Path of the artifact within a run, for example "telemetry.parquet".
        run_ids: MLflow's ids of the runs.
        tracking_uri: URI of the MLflow store.

    Yields:
        The paths of the files, by run. Runs without the artifact are left out, and so are runs whose artifacts cannot
        be reached from here, such as those in a folder of another machine.
    """
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    client = MlflowClient(tracking_uri=tracking_uri)
    with tempfile.TemporaryDirectory(prefix="deeper-report-") as folder:

        def fetch(run_id: str) -> Path | None:
            place = Path(folder) / run_id
            place.mkdir()
            try:
                path = Path(client.download_artifacts(run_id, name, str(place)))
            except (MlflowException, OSError):  # what is missing has no place in the report, and does not end it
                return None
            return path if path.is_file() else None

        with ThreadPoolExecutor(FETCHERS) as pool:
            paths = list(pool.map(fetch, run_ids))
        yield {run_id: path for run_id, path in zip(run_ids, paths, strict=True) if path is not None}
