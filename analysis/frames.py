"""Reads an experiment from MLflow into pandas frames.

Only the tracking store (a server or an sqlite file) is read, not the records. Everyone who can reach the store can
therefore make reports.
"""

from __future__ import annotations

import contextlib
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from analysis.plans import PlanChoice, choose_plan, notices, runs_of_plan
from analysis.reading.opening import AnalysisError, NothingRecordedError, open_store
from analysis.reading.stored import Store, StoredExperiment, StoredRun
from analysis.settings import Settings, read_settings
from analysis.tables import counted
from reproduce import schema
from reproduce.text.markdown import from_markdown
from reproduce.text.redaction import redacted

__all__ = ["AnalysisError", "NothingRecordedError", "Recorded", "read"]

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
    repeated: int = 0
    """Number of further trainings of runs in the plan, by people who publish to the same store. They are left out."""
    settings: Settings = field(default_factory=Settings)
    """What the experiment asks of its analysis."""
    note: str = ""
    """The experiment's note in MLflow, in Markdown, with its table of the arms."""
    artifacts: Mapping[str, str] = field(default_factory=dict)
    """The URI of the folder of each run's artifacts, by run_id."""
    part_of: Recorded | None = None
    """The whole experiment, if these are only the runs by which a claim is judged."""

    @property
    def notices(self) -> list[str]:
        """Sentences on the other runs and plans under the experiment's name; empty if there are none."""
        found = notices(self.choice, self.runs, self.others)
        if self.repeated:
            found.append(
                f"{counted(self.repeated, 'further training')} of these runs {'is' if self.repeated == 1 else 'are'} "
                "left out: of each run, the finished training that began first counts."
            )
        return found

    @property
    def finite_epochs(self) -> pd.DataFrame:
        """The frame `epochs` with NaN in place of infinity, for means and figures."""
        return self.epochs.replace([math.inf, -math.inf], math.nan)

    @property
    def finished(self) -> pd.DataFrame:
        """The rows of `runs` whose outcome is finished and that have a final top-1, as a new frame."""
        return self.runs[self.runs["outcome"].eq(schema.FINISHED) & self.runs[schema.FINAL_TOP1].notna()]

    def folders(self, runs: pd.DataFrame) -> dict[str, str]:
        """Return the URIs of the folders of artifacts of these of its runs, by run_id."""
        return {run_id: self.artifacts.get(run_id, "") for run_id in runs["run_id"]}

    @property
    def described(self) -> pd.DataFrame:
        """The runs that say how the experiment was done: the finished ones, or all that began if none is finished."""
        return self.runs[self.runs["run_id"].notna()] if self.finished.empty else self.finished

    @property
    def arms(self) -> list[str]:
        """The names of the arms, in the order in which their first runs started."""
        return list(self.runs["arm"].unique())


def read(experiment: str, *, tracking_uri: str, plan: str | None = None, own: str | None = None) -> Recorded:
    """Read the runs and epochs of one plan of an experiment from a tracking store.

    Environment variables of MLflow may be set for the whole process, see `analysis.reading.opening.open_store`.

    Args:
        experiment: Name of the experiment.
        tracking_uri: URI of the MLflow store, for example `sqlite:///mlflow.db` or `http://host:5000`.
        plan: The hash of the plan, or the beginning of it. None leaves the choice to `own`.
        own: The hash of the present plan in the reader's records. None takes the newest present plan in the store.

    Raises:
        NothingRecordedError: The store does not exist, or it holds no run of the experiment.
        PlanError: The store does not hold the plan, as `analysis.plans.choose_plan` says.
        AnalysisError: The store does not answer, or MLflow is needed and not installed.
    """
    shown = redacted(tracking_uri)
    with contextlib.closing(open_store(tracking_uri)) as store:
        try:
            found = _find(store, experiment, shown)
            recorded = [run for run in store.runs(found.id) if schema.TAG_KEY in run.tags]
            if not recorded:
                raise NothingRecordedError(f"experiment: {experiment!r} in {shown} has no runs yet")
            choice = choose_plan(found.tags, experiment, wanted=plan, own=own)
            all_runs = runs_frame(recorded)
            runs = all_runs if choice.plan is None else runs_of_plan(all_runs, choice.plan)
            others = len(set(all_runs["key"]) - set(runs["key"]))
            keys = set(runs["key"])
            trainings = {
                (run.tags[schema.TAG_KEY], run.start_ms) for run in recorded if run.tags[schema.TAG_KEY] in keys
            }
            kept = set(runs["run_id"].dropna())
            epochs, not_finite = epochs_frame(store, [run for run in recorded if run.id in kept])
        except store.errors as error:
            first_line = redacted(str(error).splitlines()[0])
            raise AnalysisError(f"tracking_uri: {shown} does not answer as an MLflow store: {first_line}") from error
    return Recorded(
        experiment=experiment,
        experiment_id=found.id,
        description=_prose(found.tags.get("mlflow.note.content", "")),
        note=found.tags.get("mlflow.note.content", ""),
        runs=runs,
        choice=choice,
        others=others,
        repeated=len(trainings) - len({key for key, _ in trainings}),
        epochs=runs[["run_id", "arm", "seed"]].merge(epochs, on="run_id"),
        not_finite=not_finite,
        settings=read_settings(found.tags),
        artifacts={run.id: run.artifacts for run in recorded},
    )


def runs_frame(recorded: Sequence[StoredRun]) -> pd.DataFrame:
    """Tabulate runs in the format of `Recorded.runs`, with one row for each run key.

    If several runs have the same key, a finished one is preferred, then the one that started first.

    Args:
        recorded: At least one run. Each has the tags of key, arm and seed.
    """
    rows: list[dict[str, Any]] = []
    for run in recorded:
        tags = run.tags
        status = OUTCOME_OF_STATUS[run.status]
        own = {
            name: value
            for name, value in tags.items()
            if name == schema.TAG_COMMIT or (name.startswith("deeper.") and not name.startswith(schema.TAG_PLAN))
        }
        rows.append(
            {
                "run_id": run.id,
                "key": tags[schema.TAG_KEY],
                "arm": tags[schema.TAG_ARM],
                "seed": int(tags[schema.TAG_SEED]),
                # A run that has been resumed keeps the tag of its last attempt until it ends.
                "outcome": status if status == "running" else tags.get(schema.TAG_OUTCOME, status),
                # Tags cannot be removed: "-" replaces the error of an earlier attempt.
                "error": error if (error := tags.get(schema.TAG_ERROR)) != "-" else None,
                "started": run.start_ms / 1000,
                "ended": _ended(run),
                **run.params,
                **{
                    name: float(_as_recorded(value))
                    for name, value in run.metrics.items()
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


def epochs_frame(store: Store, recorded: Sequence[StoredRun]) -> tuple[pd.DataFrame, dict[str, int]]:
    """Read and tabulate the metrics of all epochs of the given runs.

    If several attempts at a run wrote the same epoch, the value that was written last is used.

    Returns:
        A frame with one row for each epoch of each run: run_id, epoch (counted from 0), then the metrics by name, as
        they were recorded. A metric that was not recorded in an epoch is NaN. Then the number of values that were
        recorded as infinity or NaN, by metric, if there are any.

    Raises:
        Exception: One of `store.errors`, if the store does not answer.
    """
    names = sorted({name for run in recorded for name in run.metrics if name.startswith(EPOCH_PREFIXES)})
    places = {name: [place for place, run in enumerate(recorded) if name in run.metrics] for name in names}
    wanted = {name: [recorded[place].id for place in places[name]] for name in names}
    last: dict[str, pd.Series] = {}
    for name, history in store.histories(wanted):
        index = pd.MultiIndex.from_arrays([np.array(places[name])[history.run], history.step], names=["place", "epoch"])
        values = pd.Series(_as_recorded(history.value), index)
        last[name] = values[~index.duplicated(keep="last")]
    not_finite = {name: count for name, values in last.items() if (count := int((~np.isfinite(values)).sum()))}
    wide = (
        pd.DataFrame(last).sort_index().reset_index() if last else pd.DataFrame({"place": [], "epoch": []}, dtype=int)
    )
    wide.insert(0, "run_id", pd.Series([run.id for run in recorded], dtype=str)[wide.pop("place")].to_numpy())
    return wide, not_finite


def _ended(run: StoredRun) -> float | None:
    """Return when a run ended; MLflow's own end of a resumed run leaves out the time between its attempts."""
    if run.end_ms is None:
        return None
    return float(run.tags.get(schema.TAG_ENDED, run.end_ms / 1000))


def _as_recorded(values: np.ndarray | float) -> np.ndarray:
    """Return infinity for the largest float of the same sign, which MLflow's stores hold in place of it."""
    return np.where(np.abs(values) == sys.float_info.max, np.copysign(math.inf, values), values)


def _find(store: Store, experiment: str, shown: str) -> StoredExperiment:
    """Find an experiment, or raise an error that calls the store `shown`."""
    found = store.experiment(experiment)
    if found is None:
        known = sorted(name for name in store.experiment_names() if name != "Default")
        raise NothingRecordedError(
            f"experiment: {experiment!r} is not in {shown}; "
            + (f"there are: {', '.join(known)}" if known else "nothing has been recorded there yet")
        )
    if found.is_deleted:
        raise AnalysisError(
            f"experiment: {experiment!r} was deleted in {shown}; restore it: "
            f"mlflow experiments restore --experiment-id {found.id}"
        )
    return found


def _prose(note: str) -> str:
    """Extract the prose of an experiment's Markdown note, without headings and tables."""
    lines = (line.strip() for line in note.splitlines())
    return " ".join(from_markdown(line) for line in lines if line and line[0] not in "#|")
