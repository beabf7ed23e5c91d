"""Differences between arms, paired by seed, with their intervals. Statistics of `analysis`, which knows no claims."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from scipy import special

from reproduce.claims.verdicts import LEVEL, Estimate, NotMeasured

if TYPE_CHECKING:
    import pandas as pd

POWER = 0.8


def mean(values: Sequence[float]) -> Estimate:
    """Mean with Student's t interval, and the difference from 0 that a t test of this spread and size would find with
    80 % power."""
    n = len(values)
    value = float(np.mean(values))
    if n < 2:
        return Estimate(value=value, n=n)
    se = float(np.std(values, ddof=1)) / math.sqrt(n)
    critical = float(special.stdtrit(n - 1, (1 + LEVEL) / 2))
    detectable = float(special.nctdtrinc(n - 1, 1 - POWER, critical)) * se
    return Estimate(value=value, low=value - critical * se, high=value + critical * se, n=n, detectable=detectable)


def ratio(logarithms: Sequence[float]) -> Estimate:
    """The geometric mean of ratios given by their natural logarithms; `detectable` is a factor too."""
    of = mean(logarithms)
    value, low, high, detectable = (math.exp(x) for x in (of.value, of.low, of.high, of.detectable))
    return Estimate(value=value, low=low, high=high, n=of.n, detectable=detectable)


def pairs(runs: pd.DataFrame, field: str, metric: str) -> pd.DataFrame:
    """`metric` of runs that differ in nothing but `field`, a column for each of its values; a row a seed and what they
    agree in. Raises `NotMeasured` if nothing recorded it."""
    if field not in runs or metric not in runs:
        raise NotMeasured(f"no run has recorded {field if field not in runs else metric}")
    alike = [c for c in runs.columns if c.startswith(("network.", "recipe.", "data.")) and c != field]
    return runs.fillna(dict.fromkeys(alike, "")).pivot_table(index=["seed", *alike], columns=field, values=metric)


def paired(table: pd.DataFrame, plus: str, minus: str) -> list[float]:
    """`plus` less `minus` for each seed that has both; the mean where it has several such pairs, because another factor
    varies as well. Raises `NotMeasured` if none has."""
    missing = [name for name in (plus, minus) if name not in table]
    differences = [] if missing else list((table[plus] - table[minus]).dropna().groupby(level="seed").mean())
    if not differences:
        raise NotMeasured(f"no seed has finished runs with {table.columns.name} {plus} and {minus} alike in all else")
    return differences


def points(difference: Estimate) -> str:
    """E.g. "+1.2 points [−0.3, +2.7], inside the noise"."""
    told = f"{difference.value:+.1f} points {_interval(difference, '+.1f', 0)}"
    return told.replace("-", "\N{MINUS SIGN}")


def times(factor: Estimate) -> str:
    """E.g. "1.20 times [1.05, 1.37]"."""
    return f"{factor.value:.2f} times {_interval(factor, '.2f', 1)}"


def _interval(of: Estimate, form: str, neutral: float) -> str:
    if math.isnan(of.low):
        return "[no interval]"
    return f"[{of.low:{form}}, {of.high:{form}}]" + (", inside the noise" if of.low <= neutral <= of.high else "")


def power(of: Estimate, neutral: float = 0) -> str:
    """What so many seeds could have seen: points, or a factor where `neutral` is 1."""
    if math.isnan(of.detectable):
        return f"n = {of.n}"
    least = f"a factor of {of.detectable:.2f}" if neutral else f"{of.detectable:.1f} points"
    return f"n = {of.n}, enough to see {least}"
