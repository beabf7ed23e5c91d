"""The third step of publishing: sends what was shaped to a tracking store. The only module here that imports MLflow.

Every step may be repeated: MLflow skips a metric that it has with the same timestamp, and a run is found by its tags.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from bench.tracking.mlflow_setup import QUIET
from bench.tracking.shaping import NOTE, RUNNING, Metric, NewRun, RunDescription, RunUpdate
from reproduce import schema

if TYPE_CHECKING:
    from mlflow.entities import Run

BATCH = 900  # MLflow takes 1000 metrics, params and tags in one request
NO_RETRIES = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",  # a create_run that is sent twice makes two runs
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "15",
}
PASSING = (401, 403, 408, 429)
"""HTTP client errors that may pass: credentials that are being renewed, time-outs, too many requests."""


class RejectedError(RuntimeError):
    """The tracking store will not take something, however often it is sent."""


def is_rejection(http_status: int) -> bool:
    """Whether an error of the store will stay; any other, such as a server that is away, may pass."""
    return 400 <= http_status < 500 and http_status not in PASSING


@contextmanager
def _rejections() -> Iterator[None]:
    """Raise `RejectedError` in place of MLflow's errors that will stay; also usable as a decorator."""
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        if is_rejection(error.get_http_status_code()):
            raise RejectedError(str(error)) from error
        raise


class Sender:
    """A connection to one tracking store, which is created if it is a file.

    Its methods raise `RejectedError` for what the store will never take, and whatever MLflow raises if it is away.
    """

    def __init__(self, uri: str) -> None:
        os.environ.update(QUIET | NO_RETRIES)
        from mlflow import MlflowClient

        self.client = MlflowClient(tracking_uri=uri)
        self.client.search_experiments(max_results=1)  # creates the store

    @_rejections()
    def find_experiment(self, name: str) -> str | None:
        """MLflow's id of an experiment; None if there is none of this name.

        Raises:
            RejectedError: if the experiment was deleted in MLflow.
        """
        found = self.client.get_experiment_by_name(name)
        if found is None:
            return None
        if found.lifecycle_stage == "deleted":
            raise RejectedError(f"experiment {name} is deleted in MLflow; restore it or remove it with `mlflow gc`")
        return str(found.experiment_id)

    @_rejections()
    def create_experiment(self, name: str, artifact_location: str | None) -> str:
        """Create an experiment and return MLflow's id."""
        return str(self.client.create_experiment(name, artifact_location=artifact_location))

    @_rejections()
    def set_experiment_note(self, experiment_id: str, note: str) -> None:
        """Replace the description of an experiment."""
        self.client.set_experiment_tag(experiment_id, NOTE, note)

    @_rejections()
    def find_or_create_run(self, experiment_id: str, new: NewRun) -> str:
        """MLflow's id of a run, which is created if no run of the experiment has its key.

        If an earlier attempt to create it timed out there may be two; the oldest one is used.
        """
        run = self._find_run(experiment_id, new)
        if run is None:
            self.client.create_run(experiment_id, start_time=new.start_ms, tags=dict(new.tags), run_name=new.name)
            run = self._find_run(experiment_id, new)
            assert run is not None, "the store does not find the run that it has just created"
        return str(run.info.run_id)

    @_rejections()
    def describe_run(self, run_id: str, description: RunDescription) -> None:
        """Set the params and the data set of a run, unless it has params."""
        from mlflow.entities import Dataset, DatasetInput, InputTag, Param

        if self.client.get_run(run_id).data.params:
            return
        self.client.log_batch(run_id, params=[Param(*param) for param in description.params])
        dataset = Dataset(
            name=description.dataset_name,
            digest=description.dataset_digest,
            source_type="local",
            source=description.dataset_source,
        )
        self.client.log_inputs(run_id, datasets=[DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])])
        self._set_tags(run_id, dict(description.tags))

    @_rejections()
    def update_run(self, run_id: str, update: RunUpdate, *, status: str) -> None:
        """Send what changes in a run, its status last; `status` is the one that MLflow shows now."""
        self._log_metrics(run_id, update.metrics)
        if update.tags:
            self._set_tags(run_id, dict(update.tags))
        for path in update.artifacts:
            self.client.log_artifact(run_id, str(path))
        if update.status == RUNNING and status != RUNNING:
            self.client.update_run(run_id, status=RUNNING)
        elif update.status not in (None, RUNNING):
            self.client.set_terminated(run_id, status=update.status, end_time=update.ended_ms)

    @_rejections()
    def add_evaluation(self, run_id: str, metrics: Sequence[Metric], artifact: Path, folder: str) -> None:
        """Add the metrics of an evaluation to a run, and its file to the run's artifacts."""
        self._log_metrics(run_id, metrics)
        self.client.log_artifact(run_id, str(artifact), folder)

    def _find_run(self, experiment_id: str, new: NewRun) -> Run | None:
        names = (schema.TAG_KEY, schema.TAG_EXPERIMENT)
        condition = " and ".join(f"tags.`{name}` = '{new.tags[name]}'" for name in names)
        runs = self.client.search_runs([experiment_id], filter_string=condition)
        return min(runs, key=lambda run: (run.info.start_time, run.info.run_id), default=None)

    def _log_metrics(self, run_id: str, metrics: Sequence[Metric]) -> None:
        from mlflow.entities import Metric as MlflowMetric

        for start in range(0, len(metrics), BATCH):
            batch = [MlflowMetric(*metric) for metric in metrics[start : start + BATCH]]
            self.client.log_batch(run_id, metrics=batch)

    def _set_tags(self, run_id: str, tags: dict[str, str]) -> None:
        from mlflow.entities import RunTag

        self.client.log_batch(run_id, tags=[RunTag(*tag) for tag in tags.items()])
