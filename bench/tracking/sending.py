"""Makes the third step of publishing: sends what was shaped to a tracking store.

Only this module and `embedded` import MLflow. Every call may be repeated: MLflow skips a metric that it already holds
with the same timestamp, and a run is found by its tags.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.tracking.mlflow_setup import QUIET, is_server
from bench.tracking.shaping import RUNNING, Metric, NewRun, RunDescription, RunUpdate

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric as MlflowMetric
    from mlflow.entities import Param, Run, RunTag
    from mlflow.exceptions import MlflowException

LARGEST_BATCH = 1000
"""Metrics, params and tags in one request, together."""
LARGEST_PART = {"metrics": 1000, "params": 100, "tags": 100}
"""Limits of MLflow to each kind of entity in one request."""
NOT_FINITE = {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}
"""How MLflow's REST interface writes values that are not finite, by Python's text for them."""
BATCH_ENDPOINT = "/api/2.0/mlflow/runs/log-batch"
SERVER_CONNECTIONS = 4
"""As many as the processes that a server of MLflow starts by default. One of them writes to a file at a time."""
NO_RETRIES = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",  # a create_run that is sent twice makes two runs
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "15",
}
PASSING = (401, 403, 408, 429)
"""HTTP client errors that are worth another try: expired credentials, time-outs, too many requests."""


class RejectedError(RuntimeError):
    """Raised when the tracking store rejects a request for good, so that sending it again is useless."""


def is_rejection(http_status: int) -> bool:
    """Return whether an HTTP status means that the store rejects a request for good.

    That is a client error (4xx) other than those in `PASSING`. Any other error, such as that of a server that is away,
    is worth another try.
    """
    return 400 <= http_status < 500 and http_status not in PASSING


@contextmanager
def rejections() -> Iterator[None]:
    """Turn those of MLflow's errors that are rejections into `RejectedError`; also usable as a decorator."""
    try:
        yield
    except Exception as error:
        if isinstance(error, mlflow_errors()) and is_rejection(error.get_http_status_code()):
            raise RejectedError(str(error)) from error
        raise


def mlflow_errors() -> tuple[type[MlflowException], ...]:
    """Return the class of MLflow's errors for an `except` clause; nothing where MLflow was not imported."""
    if "mlflow.exceptions" not in sys.modules:
        return ()
    from mlflow.exceptions import MlflowException

    return (MlflowException,)


def deleted_experiment(name: str) -> str:
    """Return the sentence that an experiment is deleted in MLflow."""
    return f"experiment {name} is deleted in MLflow; restore it or remove it with `mlflow gc`"


class Sender:
    """A connection to one tracking store.

    The constructor imports MLflow, sets the environment variables of `QUIET` and `NO_RETRIES` for this process, and
    connects to the store, which it creates if the URI names an SQLite file that does not exist. It and the methods
    raise MLflow's own errors if the store is away. The methods raise `RejectedError` for a request that the store
    rejects for good.

    Args:
        uri: The URI of the tracking store.
    """

    connections = 1
    """Number of threads that may use a sender at once."""

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._artifact_uris: dict[str, str] = {}
        if is_server(uri):
            self.connections = SERVER_CONNECTIONS
        self.client.search_experiments(max_results=1)  # creates the store

    @cached_property
    def client(self) -> MlflowClient:
        """MLflow's client. It is imported when it is first asked for, which takes seconds."""
        os.environ.update(QUIET | NO_RETRIES)
        from mlflow import MlflowClient

        _ask_for_databricks_once()
        return MlflowClient(tracking_uri=self._uri)

    def close(self) -> None:
        """Close the connection."""

    @rejections()
    def find_experiment(self, name: str) -> str | None:
        """Return MLflow's id of the experiment with this name, or None if there is none.

        Raises:
            RejectedError: The experiment was deleted in MLflow, or the store rejects the request.
        """
        found = self.client.get_experiment_by_name(name)
        if found is None:
            return None
        if found.lifecycle_stage == "deleted":
            raise RejectedError(deleted_experiment(name))
        return str(found.experiment_id)

    @rejections()
    def create_experiment(self, name: str, artifact_location: str | None) -> str:
        """Create an experiment and return MLflow's id of it.

        Args:
            name: The name of the experiment.
            artifact_location: The URI of the folder for its artifacts. None lets the server choose.

        Raises:
            RejectedError: The store rejects the request, for instance because the name is taken.
        """
        return str(self.client.create_experiment(name, artifact_location=artifact_location))

    @rejections()
    def describe_experiment(self, experiment_id: str, changing: Mapping[str, str], lasting: Mapping[str, str]) -> None:
        """Set tags of an experiment, in their order.

        Args:
            experiment_id: MLflow's id of the experiment.
            changing: Tags that replace others of the same name. They are sent last.
            lasting: Tags that are left as they are where the experiment has one of the same name.
        """
        known = self.experiment_tags(experiment_id)
        new = {name: value for name, value in lasting.items() if name not in known}
        new |= {name: value for name, value in changing.items() if known.get(name) != value}
        self._set_experiment_tags(experiment_id, new)

    @rejections()
    def experiment_tags(self, experiment_id: str) -> dict[str, str]:
        """Return the tags of an experiment."""
        return dict(self.client.get_experiment(experiment_id).tags)

    @rejections()
    def drop_experiment_tags(self, experiment_id: str, names: Iterable[str]) -> None:
        """Delete tags that an experiment has."""
        for name in names:
            self.client.delete_experiment_tag(experiment_id, name)

    @rejections()
    def create_run(self, experiment_id: str, new: NewRun) -> str:
        """Create a run that the store is known not to hold, and return MLflow's id of it."""
        run = self.client.create_run(experiment_id, start_time=new.start_ms, tags=dict(new.tags), run_name=new.name)
        self._artifact_uris[run.info.run_id] = run.info.artifact_uri
        return str(run.info.run_id)

    @rejections()
    def find_or_create_run(self, experiment_id: str, new: NewRun) -> str:
        """Find the run that `new` describes, create it if there is none, and return MLflow's id.

        A training of a run is known by its tags and by its start: two people may train runs with the same key and
        publish them to one store, where each training keeps a run of its own. There may be two runs of one training if
        an earlier request to create one timed out; the first of them is used.
        """
        run = self._find_run(experiment_id, new)
        if run is None:
            self.create_run(experiment_id, new)
            run = self._find_run(experiment_id, new)
            assert run is not None, "the store does not find the run that it has just created"
        return str(run.info.run_id)

    @rejections()
    def name_run(self, run_id: str, name: str, tags: Mapping[str, str]) -> None:
        """Replace the name of a run, and tags of it."""
        self.client.update_run(run_id, name=name)
        self._log(run_id, tags=tags)

    @rejections()
    def move_end(self, run_id: str, status: str, ended_ms: int) -> None:
        """Replace the end of a run that has ended, in milliseconds since 1970."""
        self.client.set_terminated(run_id, status=status, end_time=ended_ms)

    @rejections()
    def describe_run(
        self, run_id: str, description: RunDescription, update: RunUpdate, *, is_new: bool = False
    ) -> RunUpdate:
        """Set the data set of a run, and return the update with which its params and tags are sent, for `update_run`.

        A run that already has the tags is left unchanged. MLflow stores them last, so that what was killed in between
        is completed by the next call.

        Args:
            run_id: MLflow's id of the run.
            description: The data set, the params and the tags.
            update: The first update of the run, which shares its requests with them.
            is_new: Whether the run is known to have none of them yet.
        """
        from mlflow.entities import Dataset, DatasetInput, InputTag

        if not is_new and description.tags.items() <= self.client.get_run(run_id).data.tags.items():
            return update
        dataset = Dataset(
            name=description.dataset_name,
            digest=description.dataset_digest,
            source_type="local",
            source=description.dataset_source,
        )
        self.client.log_inputs(run_id, datasets=[DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])])
        return replace(update, params=description.params, tags={**description.tags, **update.tags})

    @rejections()
    def update_run(self, run_id: str, update: RunUpdate, *, status: str) -> None:
        """Send the metrics, params, tags and artifacts of an update, and its status last.

        Args:
            run_id: MLflow's id of the run.
            update: The changes.
            status: The status that MLflow shows at present.
        """
        self._log(run_id, metrics=update.metrics, params=update.params, tags=update.tags)
        self._upload(run_id, update.artifacts)
        if update.status == RUNNING and status != RUNNING:
            self.client.update_run(run_id, status=RUNNING)
        elif update.status not in (None, RUNNING):
            self.client.set_terminated(run_id, status=update.status, end_time=update.ended_ms)

    @rejections()
    def add_evaluation(self, run_id: str, metrics: Sequence[Metric], artifact: Path, folder: str) -> None:
        """Add an evaluation, or the page of a report, to a run.

        Args:
            run_id: MLflow's id of the run.
            metrics: The metrics of the evaluation, which may be empty.
            artifact: The path of the file, which becomes an artifact of the run.
            folder: The folder of that artifact among the artifacts of the run.
        """
        self._log(run_id, metrics=metrics)
        self.client.log_artifact(run_id, str(artifact), folder)

    def _upload(self, run_id: str, paths: Sequence[Path]) -> None:
        """Upload the artifacts of a run. MLflow's client asks the store where to; a run of this sender's is known."""
        uri = self._artifact_uris.get(run_id)
        if uri is None:
            for path in paths:
                self.client.log_artifact(run_id, str(path))
        elif paths:
            from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

            repository = get_artifact_repository(uri, tracking_uri=self._uri)
            for path in paths:
                repository.log_artifact(str(path))

    def _find_run(self, experiment_id: str, new: NewRun) -> Run | None:
        condition = " and ".join(f"tags.`{name}` = '{new.tags[name]}'" for name in new.identity)
        runs = list(self.client.search_runs([experiment_id], filter_string=condition))
        if new.is_training:
            runs = [run for run in runs if run.info.start_time == new.start_ms]
        return min(runs, key=lambda run: (run.info.start_time, run.info.run_id), default=None)

    def _set_experiment_tags(self, experiment_id: str, tags: Mapping[str, str]) -> None:
        for name, value in tags.items():
            self.client.set_experiment_tag(experiment_id, name, value)

    def _log(
        self,
        run_id: str,
        *,
        metrics: Sequence[Metric] = (),
        params: Sequence[tuple[str, str]] = (),
        tags: Mapping[str, str] = {},
    ) -> None:
        """Send metrics, params and tags of a run in as few requests as MLflow allows, the tags last."""
        # MLflow keeps the latest value of each metric, and replaces it less often if that comes first.
        latest_first = sorted(metrics, key=lambda metric: metric.step, reverse=True)
        for batch in batches(latest_first, params, tags):
            if is_server(self._uri):
                self._post(BATCH_ENDPOINT, {"run_id": run_id, **_as_json(batch)})
            else:
                self.client.log_batch(run_id, *_as_entities(batch))

    def _post(self, endpoint: str, body: Mapping[str, Any]) -> None:
        """Send a request to a server. MLflow's client takes ten times as long to write one with a thousand metrics."""
        from mlflow.utils.credentials import get_default_host_creds
        from mlflow.utils.rest_utils import http_request, verify_rest_response

        response = http_request(get_default_host_creds(self._uri), endpoint, "POST", json=body)
        verify_rest_response(response, endpoint)


def _ask_for_databricks_once() -> None:
    """Let MLflow's client ask once whether it runs in Databricks.

    It asks before each request, by imports of modules that are not there, which is half of its work for a request.
    """
    from mlflow.tracking.request_header.databricks_request_header_provider import DatabricksRequestHeaderProvider
    from mlflow.tracking.request_header.registry import _request_header_provider_registry as providers

    for provider in providers:
        if isinstance(provider, DatabricksRequestHeaderProvider):
            provider.in_context = partial(bool, provider.in_context())  # type: ignore[method-assign]


Batch = dict[str, list[Any]]
"""The content of a request: metrics, params and tags, each a list of tuples."""


def batches(metrics: Sequence[Metric], params: Sequence[tuple[str, str]], tags: Mapping[str, str]) -> list[Batch]:
    """Divide metrics, params and tags into as few requests as MLflow's limits allow, the tags last."""
    found: list[Batch] = [{}]
    for kind, parts in (("metrics", metrics), ("params", params), ("tags", list(tags.items()))):
        sent = 0
        while sent < len(parts):
            batch = found[-1]
            room = min(LARGEST_BATCH - sum(map(len, batch.values())), LARGEST_PART[kind] - len(batch.get(kind, ())))
            if room:
                batch.setdefault(kind, []).extend(parts[sent : sent + room])
                sent += room
            else:
                found.append({})
    return [batch for batch in found if batch]


def _as_json(batch: Batch) -> dict[str, list[dict[str, Any]]]:
    """Return a request in the format of MLflow's REST interface, which has values that are not finite as text."""
    metrics = [
        {"key": name, "value": value if math.isfinite(value) else NOT_FINITE[str(value)], "timestamp": ms, "step": step}
        for name, value, ms, step in batch.get("metrics", ())
    ]
    texts = {
        kind: [{"key": name, "value": value} for name, value in batch.get(kind, ())] for kind in ("params", "tags")
    }
    return {"metrics": metrics, **texts}


def _as_entities(batch: Batch) -> tuple[list[MlflowMetric], list[Param], list[RunTag]]:
    """Return a request as the arguments of MLflow's client."""
    from mlflow.entities import Metric as MlflowMetric
    from mlflow.entities import Param, RunTag

    return (
        [MlflowMetric(*metric) for metric in batch.get("metrics", ())],
        [Param(*param) for param in batch.get("params", ())],
        [RunTag(*tag) for tag in batch.get("tags", ())],
    )
