"""Computes differences between arms that differ in one field, and formats differences and ratios for findings.

The method is that of the report: contrasts of the arms' means, as `analysis.effects.estimate_contrast` has them. A
claim that asks a contrast of the report therefore has the same estimate, interval, n and p.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Literal

import numpy as np
import pandas as pd

from analysis.effects import decide_effects, estimate_contrast
from analysis.frames import Recorded
from analysis.statistics import Estimate, Ratio, is_clear
from analysis.tables import counted, interval, number, p_value, signed
from reproduce import schema
from reproduce.claims.verdicts import NotMeasured


def require(runs: pd.DataFrame, *columns: str) -> None:
    """Raise `NotMeasured` if a frame of runs lacks one of these config fields or metrics."""
    for column in columns:
        if column not in runs:
            raise NotMeasured(f"no run has recorded {column}")


def pairs(runs: pd.DataFrame, field: str, metric: str) -> pd.DataFrame:
    """Arrange a metric so that runs of one seed that differ in one config field alone stand in the same row.

    Args:
        runs: Finished runs, in the format of `analysis.frames.Recorded.finished`.
        field: The config field, for example `network.aux`.
        metric: Column of `runs` with the values.

    Returns:
        A frame with one column for each value of the field and one row for each seed and combination of the other
        config fields. Its index has the level `seed`. Missing runs are NaN. Of several runs of one cell, numbers are
        averaged, and of text the first is taken.

    Raises:
        NotMeasured: No run has recorded the field or the metric.
    """
    require(runs, field, metric)
    # A field with one value says nothing, and runs from before it was added lack it.
    named = [c for c in runs.columns if c.startswith(("network.", "recipe.", "data.")) and c != field]
    alike = [c for c in named if runs[c].nunique() > 1]
    how: Literal["mean", "first"] = "mean" if pd.api.types.is_numeric_dtype(runs[metric]) else "first"
    filled = runs.fillna(dict.fromkeys(alike, ""))
    return filled.pivot_table(index=["seed", *alike], columns=field, values=metric, aggfunc=how)


def difference(table: pd.DataFrame, plus: str, minus: str, *, paired: bool = False) -> Estimate:
    """Estimate the difference of two columns of a frame of `pairs`.

    If another factor of the experiment varies as well, it is the mean of the differences over its levels.

    Args:
        table: The frame that `pairs` returns.
        plus: Name of the column from which the other is subtracted.
        minus: Name of the column that is subtracted.
        paired: Whether the experiment compares its arms seed by seed.

    Raises:
        NotMeasured: No two arms differ in the field alone and have values in both columns.
    """
    samples = [
        [own[level].droplevel(list(range(1, table.index.nlevels))).dropna() for level in (plus, minus)]
        for own in _alike(table, plus, minus)
    ]
    weights = [weight / len(samples) for _ in samples for weight in (1, -1)]
    return estimate_contrast(list(itertools.chain(*samples)), weights, paired=paired)


def report_verdict(recorded: Recorded, field: str, plus: str, minus: str) -> str:
    """Format what the report decides on the difference of final top-1 between two levels of a field.

    Returns:
        For example "the report, on both − none: higher (two-sided p 0.005, 0.010 after Holm's correction over 2
        contrasts)", or that the difference is not among the contrasts of the report.
    """
    names = pairs(recorded.finished, field, "arm")
    arms = [(own[plus].iloc[0], own[minus].iloc[0]) for own in _alike(names, plus, minus)]
    weights = {arm: sign / len(arms) for pair in arms for arm, sign in zip(pair, (1, -1), strict=True)}
    whole = recorded.part_of or recorded
    for one in decide_effects(whole.finished, schema.FINAL_TOP1, whole.settings):
        same = (
            one.weights.keys() == weights.keys()
            and all(math.isclose(sign * weight, weights[arm]) for arm, weight in one.weights.items())
            for sign in (1, -1)
        )
        if any(same):
            p = f"two-sided p {p_value(one.estimate.p)}"
            if one.family > 1:
                p += f", {p_value(one.p_holm)} after Holm's correction over {one.family} contrasts"
            return f"the report, on {one.contrast}: {one.verdict}{'' if math.isnan(one.estimate.p) else f' ({p})'}"
    return "not among the report's contrasts"


def _alike(table: pd.DataFrame, plus: str, minus: str) -> list[pd.DataFrame]:
    """Split a frame of `pairs` into the arms that differ in the field alone and have values in both columns."""
    others = list(range(1, table.index.nlevels))
    groups = [own for _, own in table.groupby(level=others)] if others else [table]
    missing = [name for name in (plus, minus) if name not in table]
    found = [own for own in groups if not missing and own[[plus, minus]].notna().any().all()]
    if not found:
        raise NotMeasured(
            f"there are no finished runs that differ in {table.columns.name} ({plus} and {minus}) and in nothing else"
        )
    return found


def level_ratio(recorded: Recorded, runs: pd.DataFrame, field: str, metric: str, plus: str, minus: str) -> Ratio:
    """Estimate the ratio of the geometric means of a metric between two values of a config field.

    Values that have no logarithm (0 and what is not finite) are left out.

    Args:
        recorded: The experiment.
        runs: Its finished runs, in the format of `analysis.frames.Recorded.finished`, which may have further columns.
        field: The config field, for example `network.aux`.
        metric: Column of `runs` with the values.
        plus: Value of the field whose runs are the numerator.
        minus: Value of the field whose runs are the denominator.

    Raises:
        NotMeasured: No run has recorded the field or the metric, or there are not runs of both kinds.
    """
    logs = logarithms(pairs(runs, field, metric))
    return Ratio(difference(logs, plus, minus, paired=recorded.settings.paired))


def logarithms(table: pd.DataFrame) -> pd.DataFrame:
    """Take the natural logarithms of a frame. Values that have none (0 and what is not finite) become NaN."""
    return table.where((table > 0) & (table < math.inf)).map(math.log, na_action="ignore")


def magnitude(table: pd.DataFrame) -> float:
    """Return the largest absolute value of a frame; 0 if it is empty."""
    return float(np.nanmax(np.abs(table.to_numpy(dtype=float)), initial=0))


def difference_text(estimate: Estimate) -> str:
    """Format a difference with its interval, for example "+1.2 points [−0.3, +2.7] (includes 0)".

    Args:
        estimate: An estimate in percentage points.
    """
    return f"{signed(estimate.value, 1)} points {_interval(estimate, signed, 1)}"


def ratio_text(ratio: Ratio) -> str:
    """Format a ratio with its interval, for example "1.20 times [1.05, 1.37]"."""
    return f"{number(ratio.value, 2)} times {_interval(ratio, number, 2)}"


def power_text(estimate: Estimate | Ratio) -> str:
    """Format the numbers of runs and seeds, and the smallest effect that a single test would find.

    Args:
        estimate: An estimate in percentage points, or a ratio.

    Returns:
        For example "n = 10 (5 seeds), a single two-sided test would find 1.3 points (power 80 %)". The effect is left
        out if the estimate has no interval.
    """
    seeds = f"n = {sample_size(estimate)}"
    if math.isnan(estimate.detectable):
        return seeds
    test = "a single two-sided test would find"
    if isinstance(estimate, Ratio):
        return f"{seeds}, {test} a factor of {number(estimate.detectable, 2)} (power 80 %)"
    return f"{seeds}, {test} {estimate.detectable:.1f} points (power 80 %)"


def sample_size(estimate: Estimate | Ratio) -> str:
    """Format the number of runs behind an estimate and, of a contrast, the seeds of the arm that has the fewest."""
    seeds = f" ({counted(estimate.replicates, 'seed')})" if estimate.n != estimate.replicates else ""
    return f"{estimate.n}{seeds}"


def _interval(estimate: Estimate | Ratio, show: Callable[[float, int], str], digits: int) -> str:
    if math.isnan(estimate.low):
        return "(no interval)"
    text = interval(estimate.low, estimate.high, show, digits)
    return text if is_clear(estimate) else f"{text} (includes {estimate.no_effect:g})"


def scale(recorded: Recorded) -> str:
    """Format the data and the resolution of the finished runs, for example "on imagenette at 32 px"."""
    runs = recorded.finished
    return "on " + ", ".join(sorted(set(runs["data.path"] + " at " + runs["recipe.resolution"] + " px")))
