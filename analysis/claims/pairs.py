"""Computes differences between arms, paired by seed, and formats differences and ratios for findings.

Seeds are the independent repetitions. Only runs of the same seed are compared, and each seed contributes one value to
an estimate.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pandas as pd

from analysis.statistics import Estimate, Ratio, is_clear, mean
from analysis.tables import interval, number, signed
from reproduce.claims.verdicts import NotMeasured


def require(runs: pd.DataFrame, *columns: str) -> None:
    """Raise `NotMeasured` if a frame of runs lacks one of these config fields or metrics."""
    for column in columns:
        if column not in runs:
            raise NotMeasured(f"no run has recorded {column}")


def pairs(runs: pd.DataFrame, field: str, metric: str) -> pd.DataFrame:
    """Arrange a metric so that runs that differ in one config field alone stand in the same row.

    Args:
        runs: Finished runs, in the format of `analysis.frames.Recorded.finished`.
        field: The config field, for example `network.aux`.
        metric: Column of `runs` with the values.

    Returns:
        A frame with one column for each value of the field and one row for each seed and combination of the other
        config fields. Its index has the level `seed`. Missing runs are NaN, and several runs of one cell are averaged.

    Raises:
        NotMeasured: No run has recorded the field or the metric.
    """
    require(runs, field, metric)
    alike = [c for c in runs.columns if c.startswith(("network.", "recipe.", "data.")) and c != field]
    return runs.fillna(dict.fromkeys(alike, "")).pivot_table(index=["seed", *alike], columns=field, values=metric)


def differences(table: pd.DataFrame, plus: str, minus: str) -> list[float]:
    """Subtract one column of a frame of `pairs` from another and average the differences of each seed.

    A seed has several differences if another factor of the experiment varies as well.

    Args:
        table: The frame that `pairs` returns.
        plus: Name of the column from which the other is subtracted.
        minus: Name of the column that is subtracted.

    Returns:
        One value for each seed that has a row with values in both columns, in the unit of the frame.

    Raises:
        NotMeasured: No row has values in both columns.
    """
    missing = [name for name in (plus, minus) if name not in table]
    values = [] if missing else list((table[plus] - table[minus]).dropna().groupby(level="seed").mean())
    if not values:
        raise NotMeasured(
            f"no seed has finished runs that differ in {table.columns.name} ({plus} and {minus}) and in nothing else"
        )
    return values


def paired_difference(table: pd.DataFrame, plus: str, minus: str) -> Estimate:
    """Estimate the difference of two columns of a frame of `pairs`, with one value for each seed.

    Arguments and errors are those of `differences`.
    """
    values = differences(table, plus, minus)
    return mean(values, magnitude=magnitude(table[[plus, minus]]))


def paired_ratio(runs: pd.DataFrame, field: str, metric: str, plus: str, minus: str) -> Ratio:
    """Estimate the ratio of a metric between two values of a config field, with one ratio for each seed.

    Values that have no logarithm (0 and what is not finite) are left out.

    Args:
        runs: Finished runs, in the format of `analysis.frames.Recorded.finished`.
        field: The config field, for example `network.aux`.
        metric: Column of `runs` with the values.
        plus: Value of the field whose runs are the numerator.
        minus: Value of the field whose runs are the denominator.

    Raises:
        NotMeasured: No run has recorded the field or the metric, or no seed has runs of both kinds.
    """
    return Ratio(paired_difference(logarithms(pairs(runs, field, metric)), plus, minus))


def logarithms(table: pd.DataFrame) -> pd.DataFrame:
    """Take the natural logarithms of a frame. Values that have none (0 and what is not finite) become NaN."""
    return table.where((table > 0) & (table < math.inf)).map(math.log, na_action="ignore")


def magnitude(table: pd.DataFrame) -> float:
    """Return the largest absolute value of a frame; 0 if it is empty."""
    return float(np.nanmax(np.abs(table.to_numpy(dtype=float)), initial=0))


def difference_text(difference: Estimate) -> str:
    """Format a difference with its interval, for example "+1.2 points [−0.3, +2.7] (no clear difference)".

    Args:
        difference: An estimate in percentage points.
    """
    return f"{signed(difference.value, 1)} points {_interval(difference, signed, 1)}"


def ratio_text(ratio: Ratio) -> str:
    """Format a ratio with its interval, for example "1.20 times [1.05, 1.37]"."""
    return f"{number(ratio.value, 2)} times {_interval(ratio, number, 2)}"


def power_text(estimate: Estimate | Ratio) -> str:
    """Format the number of seeds and the smallest effect that they would find with a power of 80 %.

    Args:
        estimate: An estimate in percentage points, or a ratio.

    Returns:
        For example "n = 5, smallest detectable effect 1.3 points". The effect is left out if the estimate has no
        interval.
    """
    seeds = f"n = {estimate.n}"
    if math.isnan(estimate.detectable):
        return seeds
    if isinstance(estimate, Ratio):
        return f"{seeds}, smallest detectable factor {number(estimate.detectable, 2)}"
    return f"{seeds}, smallest detectable effect {estimate.detectable:.1f} points"


def _interval(estimate: Estimate | Ratio, show: Callable[[float, int], str], digits: int) -> str:
    if math.isnan(estimate.low):
        return "(no interval)"
    text = interval(estimate.low, estimate.high, show, digits)
    return text if is_clear(estimate) else f"{text} (no clear difference)"
