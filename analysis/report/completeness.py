"""Describes which runs of an experiment are finished, and what its numbers can and cannot show."""

from __future__ import annotations

import math
import re
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from analysis.frames import Recorded
from analysis.summaries import concurrent_runs
from analysis.tables import DASH, Cell, Table, counted, is_missing, number, percent
from reproduce import schema

DIVERGED = "diverged"
MARKS = {
    schema.FINISHED: "✓",
    DIVERGED: "⚠",
    schema.FAILED: "✗",
    schema.INTERRUPTED: "‖",
    "running": "…",
    "waiting": "·",
}
"""States of runs in the order in which they are counted, and their symbols in the grid of runs."""
NOT_FINITE = re.compile(r"No[nt]FiniteLoss|loss is not finite")
"""What the error of a run says that ended because its loss was not finite."""
SUMMARISED_FROM = 50
"""Number of runs from which the grid counts the runs of each arm in place of showing each run."""
EPOCHS = "recipe.epochs"
NAMES = 8
"""Number of runs that are named for one error."""


@dataclass(frozen=True, kw_only=True)
class GridCell:
    """A cell of the grid of runs."""

    state: str
    """One of `MARKS`, "absent" if there is no such run, or "count" for a number of runs."""
    text: str
    aside: str = ""
    """Small print, such as that the run was resumed."""


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Which runs are finished: a row for each arm."""

    columns: Sequence[str]
    """Headings beside that of the arm."""
    rows: Sequence[tuple[str, Sequence[GridCell]]]
    """The name of each arm and its cells."""
    caption: str

    def table(self) -> Table:
        """Return the grid as a table."""
        rows = [[Cell(arm), *(Cell(cell.text, cell.aside) for cell in cells)] for arm, cells in self.rows]
        return Table(self.caption, ["Arm", *self.columns], rows, frozenset(range(len(self.columns) + 1)))


@dataclass(frozen=True, kw_only=True)
class UnfinishedRuns:
    """Runs without a final result that share their outcome and their error, as the report lists them."""

    name: str
    """Arm and seed of each run, for example "baseline s0, baseline s1"."""
    outcome: str
    """A state of `MARKS`."""
    error: str
    """The error of the runs, or a dash if none was recorded."""


def states(recorded: Recorded) -> list[str]:
    """Return the state of each run, in the order of `Recorded.runs`.

    It is the run's outcome, but "diverged" for a run that ended because its loss was not finite, and for one that
    finished although its final loss is not finite or its training loss is higher after the last epoch than after the
    first.
    """
    worse = _lost_ground(recorded)
    found = []
    for run in recorded.runs.to_dict("records"):
        outcome = str(run["outcome"])
        failed_so = outcome == schema.FAILED and not is_missing(run["error"]) and NOT_FINITE.search(str(run["error"]))
        finished_so = outcome == schema.FINISHED and run["run_id"] in worse
        found.append(DIVERGED if failed_so or finished_so else outcome)
    return found


def runs_in_state(recorded: Recorded, state: str, *, finished: bool) -> list[str]:
    """Name the runs with this state that finished, or that did not, for example "baseline s0"."""
    return [
        f"{run['arm']} s{run['seed']}"
        for run, found in zip(recorded.runs.to_dict("records"), states(recorded), strict=True)
        if found == state and (run["outcome"] == schema.FINISHED) == finished
    ]


def _lost_ground(recorded: Recorded) -> set[str]:
    """Find the runs whose loss is not finite at the end, or is above that after the first epoch."""
    lost: set[str] = set()
    if schema.FINAL_VAL_LOSS in recorded.runs:
        loss = recorded.runs[schema.FINAL_VAL_LOSS].astype(float)
        lost |= set(recorded.runs.loc[loss.notna() & ~np.isfinite(loss), "run_id"])
    metric = schema.TRAIN_LOSS_MAIN
    if metric in recorded.epochs and len(recorded.epochs):
        ordered = recorded.epochs.sort_values("epoch", kind="stable").dropna(subset=[metric]).groupby("run_id")[metric]
        first, last = ordered.first(), ordered.last()
        lost |= set(first.index[(last > first) | ~np.isfinite(last)])
    return lost


def completeness(recorded: Recorded) -> Grid:
    """Lay out the grid of runs, with one row for each arm, in the order of `Recorded.arms`.

    There is a column for each seed. Its cells have a symbol with top-1 in percent or, for an unfinished run, its last
    epoch or its state. If several runs have the same arm and seed, the one that started last is shown. From
    `SUMMARISED_FROM` runs on, there is a column for each state instead, with the number of runs.
    """
    runs = recorded.runs.assign(state=states(recorded), resumed=_resumed(recorded.runs))
    if len(runs) >= SUMMARISED_FROM:
        return _counted_grid(recorded, runs)
    last = dict(recorded.epochs.groupby("run_id")["epoch"].max() + 1)
    seeds = sorted(runs["seed"].unique())
    newest = {(str(run["arm"]), int(run["seed"])): run for run in runs.to_dict("records")}
    rows = [(arm, [_grid_cell(newest.get((arm, seed)), last) for seed in seeds]) for arm in recorded.arms]
    return Grid(columns=[f"seed {seed}" for seed in seeds], rows=rows, caption="Top-1 of each finished run, in %")


def _grid_cell(run: Mapping[Hashable, Any] | None, last: Mapping[str, int]) -> GridCell:
    if run is None:
        return GridCell(state="absent", text=DASH)
    state = str(run["state"])
    text, asides = state, []
    if run["outcome"] == schema.FINISHED:
        text = percent(float(str(run[schema.FINAL_TOP1])))
        asides += [state] if state != schema.FINISHED else []
    elif run["run_id"] in last:
        text = f"epoch {last[str(run['run_id'])]}"
        asides.append(state)
    asides += [str(run["resumed"])] if run["resumed"] else []
    return GridCell(state=state, text=f"{MARKS.get(state, '')} {text}".strip(), aside=", ".join(asides))


def _counted_grid(recorded: Recorded, runs: pd.DataFrame) -> Grid:
    present = [state for state in MARKS if state in set(runs["state"])]
    elsewhere = runs["resumed"].ne("").any()
    rows = []
    for arm, own in runs.groupby("arm", sort=False):
        counts = own["state"].value_counts()
        cells = [
            GridCell(state=state if counts.get(state) else "absent", text=str(counts.get(state, DASH)))
            for state in present
        ]
        if elsewhere:
            resumed = int(own["resumed"].ne("").sum())
            cells.append(GridCell(state="count", text=str(resumed) if resumed else DASH))
        rows.append((str(arm), cells))
    columns = [f"{MARKS[state]} {state}" for state in present] + (["resumed"] if elsewhere else [])
    return Grid(columns=columns, rows=rows, caption=f"Number of runs of each arm by their state, of {len(runs)} runs")


def _resumed(runs: pd.DataFrame) -> list[str]:
    """Say of each run that was resumed what had changed; empty for the others."""
    changes = [name for name in map(str, runs.columns) if name.startswith(schema.TAG_CHANGES)]
    said = []
    for run in runs.to_dict("records"):
        other = [name.removeprefix(schema.TAG_CHANGES) for name in changes if not is_missing(run[name])]
        attempt = run.get(schema.TAG_ATTEMPT)
        again = not is_missing(attempt) and int(str(attempt)) > 1
        said.append(f"resumed under other {', '.join(other)}" if other else "resumed" if again else "")
    return said


def unfinished_runs(recorded: Recorded) -> list[UnfinishedRuns]:
    """List the runs that failed, were interrupted or are not done yet, together if they share outcome and error."""
    groups: dict[tuple[str, str], list[str]] = {}
    for run, state in zip(recorded.runs.to_dict("records"), states(recorded), strict=True):
        if run["outcome"] != schema.FINISHED:
            error = DASH if is_missing(run["error"]) else str(run["error"])
            groups.setdefault((state, error), []).append(f"{run['arm']} s{run['seed']}")
    return [
        UnfinishedRuns(
            name=", ".join(names[:NAMES]) + (f" and {len(names) - NAMES} more" if len(names) > NAMES else ""),
            outcome=outcome,
            error=error,
        )
        for (outcome, error), names in groups.items()
    ]


def limits(recorded: Recorded, effects: pd.DataFrame, *, images: int = 0) -> list[str]:
    """Write sentences on the limits of the results: power, missing runs and values, sharing, computation, telemetry.

    Args:
        recorded: The experiment.
        effects: Effects on top-1, in the format of `analysis.effects.effects`.
        images: Number of validation images; 0 if it is not known.
    """
    counts = recorded.finished["arm"].value_counts()
    lines = []
    if counts.empty:
        lines.append("No run is finished, so that there is neither a final accuracy nor a comparison.")
    elif counts.max() < 2:
        lines.append(
            "Each arm has one run: differences between arms cannot be separated from differences between seeds."
        )
    elif effects["detectable"].notna().any():
        found = []
        for kind, name in (("main", "main effects"), ("interaction", "interactions"), ("pairwise", "pairs of arms")):
            values = effects.loc[effects["kind"] == kind, "detectable"].dropna()
            if len(values):
                low, high = (percent(value, 1) for value in (values.min(), values.max()))
                found.append(f"{name} {low}" if low == high else f"{name} {low} to {high}")
        lines.append(
            "The smallest detectable effects on top-1, in points, after Holm's correction, with a power of at least "
            f"80 % and the observed spread: {', '.join(found)}."
        )
    elif len(effects):
        lines.append("No effect has an interval: the seeds of an arm are too few, or have no spread.")
    if images and len(counts):
        share = float(recorded.finished[schema.FINAL_TOP1].mean())
        floor = math.sqrt(share * (1 - share) / images)
        lines.append(
            f"The validation set has {number(images)} images: at a top-1 of {percent(share, 1)} %, an accuracy on that "
            f"many has a binomial standard deviation of {percent(floor, 2)} points. Intervals over seeds do not "
            "include it, since all runs are validated on the same images."
        )
    if recorded.choice.plan is None:
        lines.append(
            "The tracking store holds no plan of this experiment, so that runs that never started cannot be counted; "
            "`deeper publish --once` publishes it from the records."
        )
    if recorded.not_finite:
        counts_of = ", ".join(f"{name} in {counted(count, 'epoch')}" for name, count in recorded.not_finite.items())
        lines.append(f"Some recorded values are not finite, and means and figures leave them out: {counts_of}.")
    if len(counts) and (counts.min() != counts.max() or len(counts) < len(recorded.arms)):
        lines.append("Arms have unequal numbers of finished runs; failed or missing runs are not filled in.")
    if schema.SHARED_GPU_BUSY_PERCENT in recorded.runs:
        lines.append(
            "Some runs shared a GPU. Busy time and power are those of the whole device, energy is not attributed to "
            "single runs, and images/s are those of a part of a GPU."
        )
    lines += missing_epochs(recorded)
    lines += computed_differently(recorded.finished)
    lines += [f"GPU telemetry is incomplete: {reason}." for reason in missing_telemetry(recorded.runs)]
    lines += slow_ranks(recorded.runs)
    concurrent = concurrent_runs(recorded.runs)
    if concurrent > 1:
        lines.append(
            f"Up to {concurrent} runs shared a machine: their images/s and times say how long the experiment took; "
            "they are not benchmarks of the arms."
        )
    return lines


def missing_epochs(recorded: Recorded) -> list[str]:
    """Write a sentence on finished runs with fewer epochs than their recipes have, as where events are damaged."""
    finished = recorded.finished
    if EPOCHS not in finished:
        return []
    known = recorded.epochs.groupby("run_id")["epoch"].nunique()
    lacking = finished[finished[EPOCHS].astype(int) > finished["run_id"].map(known).astype(float).fillna(0)]
    if lacking.empty:
        return []
    names = [f"{run['arm']} s{run['seed']}" for _, run in lacking.iterrows()]
    more = f" and {len(names) - NAMES} more" if len(names) > NAMES else ""
    return [
        f"Not all epochs are recorded of {counted(len(names), 'finished run')} ({', '.join(names[:NAMES])}{more}): "
        "curves and times to a target lack them."
    ]


def computed_differently(runs: pd.DataFrame) -> list[str]:
    """Write sentences on runs that were not computed alike, although this is no part of the experiment.

    Args:
        runs: Runs in the format of `analysis.frames.Recorded.runs`. Those that did not record a fact are left out.
    """
    lines = []
    varying = {}
    for column in sorted(name for name in map(str, runs.columns) if name.startswith(schema.TAG_COMPUTATION)):
        counts = runs[column].dropna().value_counts().drop("-", errors="ignore").sort_index()
        if len(counts) > 1:
            values = ", ".join(f"{value} ({counted(count, 'run')})" for value, count in counts.items())
            varying[column.removeprefix(schema.TAG_COMPUTATION)] = values
    if varying:
        facts = "; ".join(f"{fact}: {values}" for fact, values in varying.items())
        lines.append(f"Runs were computed on different terms, so that they compare up to rounding only: {facts}.")
    if "decoder" in varying:
        lines.append("Runs with another decoder saw other pixels, which is more than rounding.")
    if "code" in varying:
        lines.append("Runs with other code may differ by more than rounding.")
    changed = runs[[name for name in map(str, runs.columns) if name.startswith(schema.TAG_CHANGES)]].dropna(how="all")
    if len(changed):
        facts = ", ".join(sorted(name.removeprefix(schema.TAG_CHANGES) for name in map(str, changed.columns)))
        lines.append(f"{counted(len(changed), 'run')} went on after an interruption with a change of {facts}.")
    return lines


def missing_telemetry(runs: pd.DataFrame) -> list[str]:
    """List the reasons why GPUs of some runs were not sampled, each with its number of runs as text.

    Args:
        runs: Runs in the format of `analysis.frames.Recorded.runs`.
    """
    if schema.TAG_GPU_ABSENT not in runs:
        return []
    reasons = runs[schema.TAG_GPU_ABSENT].dropna().value_counts().drop("-", errors="ignore")
    return [f"{reason} ({counted(count, 'run')})" for reason, count in reasons.items()]


def slow_ranks(runs: pd.DataFrame) -> list[str]:
    """Name, for each run that has one, the rank for which all others wait.

    Args:
        runs: Runs in the format of `analysis.frames.Recorded.runs`.
    """
    if schema.TAG_SLOWEST not in runs:
        return []
    slow = runs[runs[schema.TAG_SLOWEST].notna() & runs[schema.TAG_SLOWEST].ne("-")]
    lines = [f"{run['arm']}, seed {run['seed']}: {run[schema.TAG_SLOWEST]}." for _, run in slow[:NAMES].iterrows()]
    more = len(slow) - len(lines)
    return lines + ([f"{counted(more, 'more run')} had a rank far slower than the others."] if more > 0 else [])
