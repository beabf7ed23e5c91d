"""Differences and ratios between arms, paired by seed, and how findings word them.

Seeds are the independent repetitions: only runs of the same seed are compared, and an estimate rests on one value from
each seed.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import pandas as pd

from analysis.statistics import Estimate, Ratio, is_clear
from analysis.tables import interval, signed
from reproduce.claims.verdicts import NotMeasured


def pairs(runs: pd.DataFrame, field: str, metric: str) -> pd.DataFrame:
    """The metric of runs that differ in nothing but one field of their config.

    Args:
        runs: Finished runs, as `analysis.frames.Recorded.finished`.
        field: The field, for example `network.aux`.
        metric: The column of `runs` whose values are compared.

    Returns:
        A column for each value of the field, and a row for each seed and each combination of the other fields.

    Raises:
        NotMeasured: No run has recorded the field or the metric.
    """
    if field not in runs or metric not in runs:
        raise NotMeasured(f"no run has recorded {field if field not in runs else metric}")
    alike = [c for c in runs.columns if c.startswith(("network.", "recipe.", "data.")) and c != field]
    return runs.fillna(dict.fromkeys(alike, "")).pivot_table(index=["seed", *alike], columns=field, values=metric)


def differences(table: pd.DataFrame, plus: str, minus: str) -> list[float]:
    """One column of `pairs` minus another: a value for each seed that has both.

    Where a seed has several such pairs, because another factor varies as well, their mean is taken.

    Raises:
        NotMeasured: No seed has runs of both kinds.
    """
    missing = [name for name in (plus, minus) if name not in table]
    values = [] if missing else list((table[plus] - table[minus]).dropna().groupby(level="seed").mean())
    if not values:
        raise NotMeasured(
            f"no seed has finished runs that differ in {table.columns.name} ({plus} and {minus}) and in nothing else"
        )
    return values


def difference_text(difference: Estimate) -> str:
    """A difference in percentage points, for example "+1.2 points [−0.3, +2.7] (no clear difference)"."""
    return f"{signed(difference.value, 1)} points {_interval(difference, signed, 1)}"


def ratio_text(ratio: Ratio) -> str:
    """A factor, for example "1.20 times [1.05, 1.37]"."""
    return f"{ratio.value:.2f} times {_interval(ratio, _factor, 2)}"


def power_text(estimate: Estimate | Ratio) -> str:
    """The number of seeds, and the smallest effect that this many seeds are likely to find."""
    seeds = f"n = {estimate.n}"
    if math.isnan(estimate.detectable):
        return seeds
    if isinstance(estimate, Ratio):
        return f"{seeds}, smallest detectable factor {estimate.detectable:.2f}"
    return f"{seeds}, smallest detectable effect {estimate.detectable:.1f} points"


def _interval(estimate: Estimate | Ratio, show: Callable[[float, int], str], digits: int) -> str:
    if math.isnan(estimate.low):
        return "(no interval)"
    text = interval(estimate.low, estimate.high, show, digits)
    return text if is_clear(estimate) else f"{text} (no clear difference)"


def _factor(value: float, digits: int) -> str:
    return f"{value:.{digits}f}"
