"""Reads a tracking store through MLflow's client: a server, or a database whose tables are not read directly.

From a server, histories are read through the endpoint of MLflow's own pages, `metrics/get-history-bulk`, which returns
up to 25 000 values of one metric in up to 100 runs. It is the fastest way that a server of MLflow 3.17 offers. The
documented `get-history-bulk-interval` samples at most 2500 values a run, by several queries for each run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import numpy as np

from analysis.reading.stored import History, StoredExperiment, StoredRun

if TYPE_CHECKING:
    from mlflow import MlflowClient

PAGE_SIZE = 1000
READERS = 8
"""Number of threads that read histories, so that several requests to a server are under way at once."""
BULK_ENDPOINT = "/ajax-api/2.0/mlflow/metrics/get-history-bulk"
BULK_RUNS = 100
"""The most runs in one request."""
BULK_VALUES = 25_000
"""The most values in one response. One with as many may have been cut."""

Point = tuple[int, float]
"""Step and value."""


class MlflowStore:
    """A tracking store behind MLflow's client; see `analysis.reading.stored.Store`.

    Args:
        client: The client.
    """

    def __init__(self, client: MlflowClient) -> None:
        from mlflow.exceptions import MlflowException

        self.errors: tuple[type[Exception], ...] = (MlflowException,)
        self._client = client
        self._has_bulk = client.tracking_uri.startswith(("http://", "https://"))

    def experiment(self, name: str) -> StoredExperiment | None:
        """See `Store`."""
        found = self._client.get_experiment_by_name(name)
        if found is None:
            return None
        return StoredExperiment(
            id=found.experiment_id, is_deleted=found.lifecycle_stage == "deleted", tags=dict(found.tags)
        )

    def experiment_names(self) -> list[str]:
        """See `Store`."""
        return [experiment.name for experiment in self._client.search_experiments()]

    def runs(self, experiment_id: str) -> list[StoredRun]:
        """See `Store`."""
        return [
            StoredRun(
                id=run.info.run_id,
                status=run.info.status,
                start_ms=run.info.start_time,
                end_ms=run.info.end_time,
                params=run.data.params,
                metrics=run.data.metrics,
                tags=run.data.tags,
                artifacts=run.info.artifact_uri,
            )
            for page in self._pages(experiment_id)
            for run in page
        ]

    def histories(self, wanted: Mapping[str, Sequence[str]]) -> Iterator[tuple[str, History]]:
        """See `Store`."""
        size = BULK_RUNS if self._has_bulk else 1
        parts = {
            name: [runs[start : start + size] for start in range(0, len(runs), size)] for name, runs in wanted.items()
        }
        with ThreadPoolExecutor(READERS) as pool:
            for name, runs in wanted.items():
                points: dict[str, list[Point]] = {}
                for found in pool.map(lambda part, name=name: self._read(name, part), parts[name]):
                    points |= found
                yield name, _history(runs, points)

    def close(self) -> None:
        """See `Store`."""

    def _pages(self, experiment_id: str) -> Iterator[Sequence[Any]]:
        token: str | None = None
        while True:
            page = self._client.search_runs([experiment_id], max_results=PAGE_SIZE, page_token=token)
            yield page
            token = page.token
            if not token:
                return

    def _read(self, name: str, runs: Sequence[str]) -> dict[str, list[Point]]:
        """Read the points of a metric by run; those of a run are ordered as `History` says."""
        found = self._read_bulk(name, runs) if self._has_bulk else None
        if found is not None and len(found) < BULK_VALUES:
            points: dict[str, list[Point]] = {}
            for point in found:
                points.setdefault(point["run_id"], []).append((point["step"], point["value"]))
            return points
        if found is not None and len(runs) > 1:  # the response may have been cut
            half = len(runs) // 2
            return self._read(name, runs[:half]) | self._read(name, runs[half:])
        return {run: self._read_one(name, run) for run in runs}

    def _read_one(self, name: str, run: str) -> list[Point]:
        history = self._client.get_metric_history(run, name)
        ordered = sorted(history, key=lambda point: point.timestamp)  # stable: stores sort by step and value, too
        return [(point.step, point.value) for point in ordered]

    def _read_bulk(self, name: str, runs: Sequence[str]) -> list[dict[str, Any]] | None:
        """Read values of a metric, or return None if the server has no such endpoint."""
        from mlflow.utils.credentials import get_default_host_creds
        from mlflow.utils.rest_utils import http_request, verify_rest_response

        server = get_default_host_creds(self._client.tracking_uri)
        query = [("metric_key", name), *(("run_id", run) for run in runs)]
        response = http_request(server, BULK_ENDPOINT, "GET", params=query)
        if response.status_code == HTTPStatus.NOT_FOUND:
            self._has_bulk = False
            return None
        metrics: list[dict[str, Any]] = verify_rest_response(response, BULK_ENDPOINT).json()["metrics"]
        return metrics


def _history(runs: Sequence[str], points: Mapping[str, Sequence[Point]]) -> History:
    counts = [len(points.get(run, ())) for run in runs]
    values = np.array([point for run in runs for point in points.get(run, ())], dtype=float).reshape(-1, 2)
    return History(np.repeat(np.arange(len(runs)), counts), values[:, 0].astype(np.int64), values[:, 1].copy())
