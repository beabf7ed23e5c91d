"""Reads a tracking store through MLflow's client: a server, or a database whose tables are not read directly.

From a server, the metrics of the epochs of a finished run are read from its file of events, which the publisher
attached to the run when it ended. One request brings all of them, where MLflow takes one for each metric and a row of
its database for each value.

The histories of other runs are read through the endpoint of MLflow's own pages, `metrics/get-history-bulk`, which
returns up to 25 000 values of one metric in up to 100 runs. It is the fastest way that a server of MLflow 3.17 offers
for metrics. The documented `get-history-bulk-interval` samples at most 2500 values a run, by several queries for each
run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import numpy as np

from analysis.reading.kept_files import epoch_metrics, fetch_kept, kept_by_server
from analysis.reading.stored import History, StoredExperiment, StoredRun
from reproduce import schema

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
        self._kept: dict[str, str] = {}

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
        found = [
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
        finished = {run.id: kept_by_server(run.artifacts) for run in found if run.status == "FINISHED"}
        self._kept |= {run: folder for run, folder in finished.items() if folder is not None}
        return found

    def histories(self, wanted: Mapping[str, Sequence[str]]) -> Iterator[tuple[str, History]]:
        """See `Store`."""
        size = BULK_RUNS if self._has_bulk else 1
        with ThreadPoolExecutor(READERS) as pool:
            finished = [
                run for run in dict.fromkeys(run for runs in wanted.values() for run in runs) if run in self._kept
            ]
            files = dict(zip(finished, pool.map(self._read_file, finished), strict=True))
            for name, runs in wanted.items():
                points = {run: files[run][name] for run in runs if name in files.get(run, {})}
                others = [run for run in runs if run not in points]
                parts = [others[start : start + size] for start in range(0, len(others), size)]
                for found in pool.map(lambda part, name=name: self._read(name, part), parts):
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

    def _read_file(self, run: str) -> dict[str, np.ndarray]:
        """Read the metrics of all epochs from a run's file of events. Empty if there is none, or if it is damaged."""
        content = fetch_kept(self._client, f"{self._kept[run]}/{schema.ARTIFACT_EVENTS}")
        return (content and epoch_metrics(content)) or {}

    def _read(self, name: str, runs: Sequence[str]) -> dict[str, np.ndarray]:
        """Read the steps and values of a metric by run, [n, 2]; those of a run are ordered as `History` says."""
        found = self._read_bulk(name, runs) if self._has_bulk else None
        if found is not None and len(found) < BULK_VALUES:
            points: dict[str, list[tuple[int, float]]] = {}
            for point in found:
                points.setdefault(point["run_id"], []).append((point["step"], point["value"]))
            return {run: np.array(its, dtype=float) for run, its in points.items()}
        if found is not None and len(runs) > 1:  # the response may have been cut
            half = len(runs) // 2
            return self._read(name, runs[:half]) | self._read(name, runs[half:])
        return {run: self._read_one(name, run) for run in runs}

    def _read_one(self, name: str, run: str) -> np.ndarray:
        history = self._client.get_metric_history(run, name)
        ordered = sorted(history, key=lambda point: point.timestamp)  # stable: stores sort by step and value, too
        return np.array([(point.step, point.value) for point in ordered], dtype=float).reshape(-1, 2)

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


def _history(runs: Sequence[str], points: Mapping[str, np.ndarray]) -> History:
    empty = np.empty((0, 2))
    parts = [points.get(run, empty) for run in runs]
    values = np.concatenate([empty, *parts])
    return History(
        np.repeat(np.arange(len(runs)), [len(part) for part in parts]), values[:, 0].astype(int), values[:, 1].copy()
    )
