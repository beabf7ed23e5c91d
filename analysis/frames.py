"""Reads an experiment from MLflow into pandas frames.

Only the tracking store (a server or an sqlite file) is read, not the records. Everyone who can reach the store can
therefore make reports.
"""

from __future__ import annotations

import importlib.util
import logging
import math
import os
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import numpy as np
import pandas as pd

from analysis.plans import PlanChoice, choose_plan, notices, runs_of_plan
from reproduce import schema
from reproduce.errors import UserError
from reproduce.text.markdown import from_markdown
from reproduce.text.redaction import redacted

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

EPOCH_PREFIXES = ("train/", "val/", "throughput/", "memory/", schema.GRADIENT_NORM)
"""Prefixes of the metrics that have one value per epoch. All others (final/, cost/, system/) have one per run."""
OUTCOME_OF_STATUS = {
    "FINISHED": schema.FINISHED,
    "FAILED": schema.FAILED,
    "KILLED": schema.INTERRUPTED,
    "RUNNING": "running",
    "SCHEDULED": "waiting",
}
"""The outcome of a run, by its status in MLflow."""
PAGE_SIZE = 1000
READERS = 8
"""Number of threads that read histories of metrics, so that several requests to a server are under way at once."""


class AnalysisError(UserError):
    """Raised if a report or a claim cannot be computed from the tracking store.

    The message names what is missing and what exists instead.
    """


class NothingRecordedError(AnalysisError):
    """Raised if the tracking store does not exist or holds no run of the experiment."""


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """The runs of one plan of an experiment and their epochs, as MLflow held them when they were read.

    A store that older versions filled may hold no plan. Then they are all runs under the experiment's name.
    """

    experiment: str
    """Name of the experiment."""
    experiment_id: str
    """MLflow's id of the experiment."""
    description: str
    """The prose of the experiment's note in MLflow."""
    runs: pd.DataFrame
    """One row for each run, in the order in which the runs started, then those that the plan asks for and never did.

    The columns are run_id, key, arm, seed, outcome, error, started and ended (Unix seconds), then the parameters (such
    as `network.aux`, as text), the metrics with one value per run (such as `final/val_top1`, a fraction from 0 to 1),
    the tags `deeper.*` and the commit, by their names. `final/val_top1` is always present.
    """
    epochs: pd.DataFrame
    """One row for each epoch of each run.

    The columns are run_id, arm, seed and epoch (counted from 0), then the metrics with one value per epoch, by name.
    Values are as they were recorded, infinity included. One that was not recorded is NaN.
    """
    not_finite: Mapping[str, int] = field(default_factory=dict)
    """Number of values of `epochs` that were recorded as infinity or NaN, by the metric's name, if there are any."""
    choice: PlanChoice = field(default_factory=PlanChoice)
    """The plan of the runs, and the other plans under the experiment's name."""
    others: int = 0
    """Number of runs under the experiment's name that are not in the plan."""
    note: str = ""
    """The experiment's note in MLflow, in Markdown, with its table of the arms."""

    @property
    def notices(self) -> list[str]:
        """Sentences on the other runs and plans under the experiment's name; empty if there are none."""
        return notices(self.choice, self.runs, self.others)

    @property
    def finite_epochs(self) -> pd.DataFrame:
        """The frame `epochs` with NaN in place of infinity, for means and figures."""
        return self.epochs.replace([math.inf, -math.inf], math.nan)

    @property
    def finished(self) -> pd.DataFrame:
        """The rows of `runs` whose outcome is finished and that have a final top-1, as a new frame."""
        return self.runs[self.runs["outcome"].eq(schema.FINISHED) & self.runs[schema.FINAL_TOP1].notna()]

    @property
    def arms(self) -> list[str]:
        """The names of the arms, in the order in which their first runs started."""
        return list(self.runs["arm"].unique())


def read(experiment: str, *, tracking_uri: str, plan: str | None = None, own: str | None = None) -> Recorded:
    """Read the runs and epochs of one plan of an experiment from a tracking store.

    Environment variables of MLflow (retries, time limit of requests, telemetry) are set for the whole process unless
    they are set already.

    Args:
        experiment: Name of the experiment.
        tracking_uri: URI of the MLflow store, for example `sqlite:///mlflow.db` or `http://host:5000`.
        plan: The hash of the plan, or the beginning of it. None leaves the choice to `own`.
        own: The hash of the present plan in the reader's records. None takes the newest present plan in the store.

    Raises:
        NothingRecordedError: The store does not exist, or it holds no run of the experiment.
        PlanError: The store does not hold the plan, as `analysis.plans.choose_plan` says.
        AnalysisError: The store does not answer, or MLflow is not installed.
    """
    client = _connect(tracking_uri)
    shown = redacted(tracking_uri)
    from mlflow.exceptions import MlflowException

    try:
        found = client.get_experiment_by_name(experiment)
        if found is not None and found.lifecycle_stage == "deleted":
            raise AnalysisError(
                f"experiment: {experiment!r} was deleted in {tracking_uri}; restore it: "
                f"mlflow experiments restore --experiment-id {found.experiment_id}"
            )
        if found is None:
            known = sorted(e.name for e in client.search_experiments() if e.name != "Default")
            raise NothingRecordedError(
                f"experiment: {experiment!r} is not in {shown}; "
                + (f"there are: {', '.join(known)}" if known else "nothing has been recorded there yet")
            )
        recorded = [run for run in _runs(client, found.experiment_id) if schema.TAG_KEY in run.data.tags]
        if not recorded:
            raise NothingRecordedError(f"experiment: {experiment!r} in {shown} has no runs yet")
        choice = choose_plan(found.tags, experiment, wanted=plan, own=own)
        all_runs = runs_frame(recorded)
        runs = all_runs if choice.plan is None else runs_of_plan(all_runs, choice.plan)
        others = len(set(all_runs["key"]) - set(runs["key"]))
        kept = set(runs["run_id"].dropna())
        points = epoch_values(client, [run for run in recorded if run.info.run_id in kept])
    except MlflowException as error:
        first_line = redacted(str(error).splitlines()[0])
        raise AnalysisError(f"tracking_uri: {shown} does not answer as an MLflow store: {first_line}") from error
    return Recorded(
        experiment=experiment,
        experiment_id=found.experiment_id,
        description=_prose(found.tags.get("mlflow.note.content", "")),
        note=found.tags.get("mlflow.note.content", ""),
        runs=runs,
        choice=choice,
        others=others,
        epochs=runs[["run_id", "arm", "seed"]].merge(epochs_frame(points), on="run_id"),
        not_finite={str(name): len(own) for name, own in points[~np.isfinite(points["value"])].groupby("metric")},
    )


def runs_frame(recorded: list[Run]) -> pd.DataFrame:
    """Tabulate runs in the format of `Recorded.runs`, with one row for each run key.

    If several runs have the same key, a finished one is preferred, then the one that started first.

    Args:
        recorded: At least one run. Each has the tags of key, arm and seed.
    """
    rows: list[dict[str, Any]] = []
    for run in recorded:
        tags = run.data.tags
        status = OUTCOME_OF_STATUS[run.info.status]
        own = {
            name: value
            for name, value in tags.items()
            if name == schema.TAG_COMMIT or (name.startswith("deeper.") and not name.startswith(schema.TAG_PLAN))
        }
        rows.append(
            {
                "run_id": run.info.run_id,
                "key": tags[schema.TAG_KEY],
                "arm": tags[schema.TAG_ARM],
                "seed": int(tags[schema.TAG_SEED]),
                # A run that has been resumed keeps the tag of its last attempt until it ends.
                "outcome": status if status == "running" else tags.get(schema.TAG_OUTCOME, status),
                # Tags cannot be removed: "-" replaces the error of an earlier attempt.
                "error": error if (error := tags.get(schema.TAG_ERROR)) != "-" else None,
                "started": run.info.start_time / 1000,
                "ended": run.info.end_time / 1000 if run.info.end_time else None,
                **run.data.params,
                **{
                    name: _as_recorded(value)
                    for name, value in run.data.metrics.items()
                    if not name.startswith(EPOCH_PREFIXES)
                },
                **own,
            }
        )
    frame = pd.DataFrame(rows)
    if schema.FINAL_TOP1 not in frame:
        frame[schema.FINAL_TOP1] = float("nan")
    frame["_unfinished"] = frame["outcome"].ne(schema.FINISHED)
    frame = frame.sort_values(["_unfinished", "started", "seed"], kind="stable").drop_duplicates("key")
    return frame.drop(columns="_unfinished").sort_values("started", kind="stable", ignore_index=True)


def epoch_values(client: MlflowClient, recorded: list[Run]) -> pd.DataFrame:
    """Read the metrics of all epochs of the given runs, with several requests to MLflow at a time.

    If several attempts at a run wrote the same epoch, the value that was written last is used.

    Returns:
        A frame with one row for each value, as it was recorded: run_id, metric, epoch (counted from 0), timestamp and
        value. Values may be infinite or NaN.

    Raises:
        MlflowException: The store does not answer.
    """
    wanted = [
        (run.info.run_id, name) for run in recorded for name in run.data.metrics if name.startswith(EPOCH_PREFIXES)
    ]
    with ThreadPoolExecutor(READERS) as pool:
        histories = list(pool.map(lambda pair: client.get_metric_history(*pair), wanted))
    points = pd.DataFrame(
        [
            (run_id, name, point.step, point.timestamp, _as_recorded(point.value))
            for (run_id, name), history in zip(wanted, histories, strict=True)
            for point in history
        ],
        columns=["run_id", "metric", "epoch", "timestamp", "value"],
    ).astype({"value": float})
    return points.sort_values("timestamp", kind="stable").drop_duplicates(["run_id", "metric", "epoch"], keep="last")


def epochs_frame(points: pd.DataFrame) -> pd.DataFrame:
    """Tabulate the values of epochs that `epoch_values` returns.

    Returns:
        A frame with one row for each epoch of each run: run_id, epoch (counted from 0), then the metrics by name. A
        metric that was not recorded in an epoch is NaN.
    """
    wide = points.pivot(index=["run_id", "epoch"], columns="metric", values="value")
    wide.columns.name = None
    return wide.reset_index()


def _as_recorded(value: float) -> float:
    """Return infinity for the largest float of the same sign, which MLflow's stores hold in place of it."""
    return math.copysign(math.inf, value) if abs(value) == sys.float_info.max else value


def _connect(tracking_uri: str) -> MlflowClient:
    if importlib.util.find_spec("mlflow") is None:
        raise AnalysisError(
            "MLflow is not installed here, and reports are made from its store; make the report on another machine"
        )
    if tracking_uri.startswith("sqlite:///"):
        store = Path(unquote(tracking_uri.removeprefix("sqlite:///").partition("?")[0]))
        if not store.is_file():  # MLflow would create an empty one
            raise NothingRecordedError(
                f"tracking_uri: no store {store}; if there are records, publish them first: deeper publish --once"
            )
    # With its own defaults, MLflow retries for four minutes when a server is down.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    logging.getLogger("alembic").setLevel(logging.WARNING)
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=tracking_uri)


def _prose(note: str) -> str:
    """Extract the prose of an experiment's Markdown note, without headings and tables."""
    lines = (line.strip() for line in note.splitlines())
    return " ".join(from_markdown(line) for line in lines if line and line[0] not in "#|")


def _runs(client: MlflowClient, experiment_id: str) -> Iterator[Run]:
    token: str | None = None
    while True:
        page = client.search_runs([experiment_id], max_results=PAGE_SIZE, page_token=token)
        yield from page
        token = page.token
        if not token:
            return
