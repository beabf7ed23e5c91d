"""Describes which runs of an experiment are finished, and what its numbers can and cannot show."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from analysis.frames import Recorded
from analysis.summaries import concurrent_runs
from analysis.tables import DASH, counted, is_missing, percent
from reproduce import schema

MARKS = {schema.FINISHED: "✓", schema.FAILED: "✗", schema.INTERRUPTED: "‖", "running": "…", "waiting": "·"}
"""Symbols of the outcomes in the grid of runs."""


@dataclass(frozen=True, kw_only=True)
class UnfinishedRun:
    """A run that has no final result, as the report lists it."""

    name: str
    """Arm and seed, for example "baseline s0"."""
    outcome: str
    """Outcome of the last attempt, "running" or "waiting"."""
    error: str
    """The error of the run, or a dash if none was recorded."""


def completeness(recorded: Recorded) -> list[tuple[str, list[tuple[str, str]]]]:
    """Lay out the grid of runs, with one row for each arm and one cell for each seed.

    Returns:
        Pairs of an arm's name and its cells, in the order of `Recorded.arms`. The cells are in ascending order of the
        seeds. Each is a pair of the run's outcome ("absent" if there is no such run) and the text to show: a symbol
        with top-1 in percent or, for an unfinished run, its last epoch or outcome. If several runs have the same arm
        and seed, the one that started last is shown.
    """
    last = recorded.epochs.groupby("run_id")["epoch"].max() + 1
    seeds = sorted(recorded.runs["seed"].unique())
    rows = []
    for arm in recorded.arms:
        cells = []
        for seed in seeds:
            own = recorded.runs[(recorded.runs["arm"] == arm) & (recorded.runs["seed"] == seed)]
            if own.empty:
                cells.append(("absent", DASH))
                continue
            run = own.iloc[-1]
            text = percent(run[schema.FINAL_TOP1])
            if run["outcome"] != schema.FINISHED:
                text = f"epoch {last[run['run_id']]}" if run["run_id"] in last.index else run["outcome"]
            cells.append((run["outcome"], f"{MARKS.get(run['outcome'], '')} {text}".strip()))
        rows.append((arm, cells))
    return rows


def unfinished_runs(recorded: Recorded) -> list[UnfinishedRun]:
    """List the runs that failed, were interrupted or are not done yet, in the order in which they started."""
    return [
        UnfinishedRun(
            name=f"{run.arm} s{run.seed}",
            outcome=str(run.outcome),
            error=DASH if is_missing(run.error) else str(run.error),
        )
        for run in recorded.runs.itertuples()
        if run.outcome != schema.FINISHED
    ]


def limits(recorded: Recorded, effects: pd.DataFrame) -> list[str]:
    """Write sentences on the limits of the results: power, missing runs and values, sharing, computation, telemetry.

    Args:
        recorded: An experiment with at least one finished run.
        effects: Effects on top-1, in the format of `analysis.effects.effects`.
    """
    counts = recorded.finished["arm"].value_counts()
    lines = []
    if counts.max() < 2:
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
            "The smallest detectable effects on top-1, in points, with a power of 80 % and the observed spread: "
            f"{', '.join(found)}."
        )
    elif len(effects):
        lines.append("No effect has an interval: the seeds of an arm are too few, or have no spread.")
    if recorded.choice.plan is None:
        lines.append(
            "The tracking store holds no plan of this experiment, so that runs that never started cannot be counted; "
            "`deeper publish --once` publishes it from the records."
        )
    if recorded.not_finite:
        counts_of = ", ".join(f"{name} in {counted(count, 'epoch')}" for name, count in recorded.not_finite.items())
        lines.append(f"Values that are not finite were recorded of {counts_of}; means and figures leave them out.")
    if counts.min() != counts.max() or len(counts) < len(recorded.arms):
        lines.append("Arms have unequal numbers of finished runs; failed or missing runs are not filled in.")
    if schema.SHARED_GPU_BUSY_PERCENT in recorded.runs:
        lines.append(
            "Some runs shared a GPU. Busy time and power are those of the whole device, energy is not attributed to "
            "single runs, and images/s are those of a part of a GPU."
        )
    lines += computed_differently(recorded.finished)
    lines += [f"GPU telemetry is incomplete: {reason}." for reason in missing_telemetry(recorded.runs)]
    concurrent = concurrent_runs(recorded.runs)
    if concurrent > 1:
        lines.append(
            f"Up to {concurrent} runs shared a machine: their images/s and times say how long the experiment took; "
            "they are not benchmarks of the arms."
        )
    return lines


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
        lines.append(f"{counted(len(changed), 'run')} went on with another computation after an interruption: {facts}.")
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
