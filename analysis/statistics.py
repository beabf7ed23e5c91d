"""Estimates from a handful of runs: means, differences and ratios with their intervals, tests and power.

Intervals are Student's t intervals. Bootstrap intervals are left out on purpose: over three to ten seeds they cover the
true value far less often than their level says.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt
from scipy import special

LEVEL = 0.95
"""The confidence level of every interval."""
ALPHA = 1 - LEVEL
POWER = 0.8
"""The probability with which a test finds the smallest detectable effect."""
NAN = float("nan")


@dataclass(frozen=True)
class Estimate:
    """A mean, or a difference of means, with what its interval and its test follow from.

    Without at least two values on each side, or without any spread between them, there is no interval: `low`, `high`,
    `p` and `detectable` are NaN.
    """

    value: float
    n: int
    """The number of values behind the estimate."""
    se: float = NAN
    """Standard error of `value`."""
    df: float = NAN
    """Degrees of freedom of the standard error."""

    no_effect: ClassVar[float] = 0.0
    """The value that stands for no difference."""

    @property
    def _has_interval(self) -> bool:
        return self.se > 0 and self.df > 0

    @property
    def half_width(self) -> float:
        """Half of the interval's width."""
        return _critical(self.df) * self.se if self._has_interval else NAN

    @property
    def low(self) -> float:
        return self.value - self.half_width

    @property
    def high(self) -> float:
        return self.value + self.half_width

    @property
    def p(self) -> float:
        """Two-sided p value of the hypothesis that the true value is 0."""
        return 2 * float(special.stdtr(self.df, -abs(self.value) / self.se)) if self._has_interval else NAN

    @property
    def detectable(self) -> float:
        """The smallest effect that a t test with this spread and number of values would find with a power of 80 %."""
        return detectable(self.se, self.df) if self._has_interval else NAN


@dataclass(frozen=True)
class Ratio:
    """A geometric mean of ratios: an estimate of their natural logarithm, read as a factor."""

    log: Estimate

    no_effect: ClassVar[float] = 1.0

    @property
    def value(self) -> float:
        return math.exp(self.log.value)

    @property
    def n(self) -> int:
        return self.log.n

    @property
    def low(self) -> float:
        return math.exp(self.log.low)

    @property
    def high(self) -> float:
        return math.exp(self.log.high)

    @property
    def detectable(self) -> float:
        """The smallest factor above 1 that a t test on the logarithms would find with a power of 80 %."""
        return math.exp(self.log.detectable)


def is_clear(estimate: Estimate | Ratio) -> bool:
    """Whether the interval excludes the value that stands for no difference. Without an interval nothing is clear."""
    return estimate.low > estimate.no_effect or estimate.high < estimate.no_effect


def mean(values: npt.ArrayLike) -> Estimate:
    """The mean of independent values."""
    array = np.asarray(values, dtype=float)
    n = len(array)
    if n < 2:
        return Estimate(float(array.mean()) if n else NAN, n)
    return Estimate(float(array.mean()), n, se=float(array.std(ddof=1)) / math.sqrt(n), df=n - 1)


def ratio(logarithms: npt.ArrayLike) -> Ratio:
    """The geometric mean of ratios that are given by their natural logarithms."""
    return Ratio(mean(logarithms))


def welch(a: npt.ArrayLike, b: npt.ArrayLike) -> Estimate:
    """The mean of `a` minus the mean of `b`, without the assumption that both have the same variance."""
    first, second = mean(a), mean(b)
    value, n = first.value - second.value, first.n + second.n
    va, vb = first.se**2, second.se**2
    if not va + vb > 0:
        return Estimate(value, n)
    return Estimate(value, n, se=math.sqrt(va + vb), df=(va + vb) ** 2 / (va**2 / first.df + vb**2 / second.df))


def holm(p: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment of a family of p values.

    NaN stands for a test that was not made: it stays NaN and does not count in the family.
    """
    array = np.asarray(p, dtype=float)
    adjusted = np.full(len(array), NAN)
    tested = np.flatnonzero(~np.isnan(array))
    order = tested[np.argsort(array[tested], kind="stable")]
    factors = len(order) - np.arange(len(order))
    adjusted[order] = np.minimum(np.maximum.accumulate(array[order] * factors), 1)
    return [float(value) for value in adjusted]


def detectable(se: float, df: float, *, power: float = POWER) -> float:
    """The smallest effect that a two-sided t test at the level `ALPHA` finds with `power`.

    It is the noncentrality that reaches `power`, times `se`. The tail on the far side is neglected: at useful powers
    its probability is practically zero.
    """
    return float(special.nctdtrinc(df, 1 - power, _critical(df))) * se


def seeds_needed(estimate: Estimate | Ratio, distance: float, *, at_most: int) -> int:
    """How many more seeds would narrow the interval of a mean to less than `distance` on each side.

    The value and the spread between seeds are taken to stay as they are.

    Args:
        estimate: The mean of one value for each seed, or a ratio of that kind.
        distance: From the estimate's value to the bound that the interval has to exclude, in the unit of the value.
        at_most: What is returned where even this many more seeds would not be enough.
    """
    if math.isnan(estimate.low):
        return 1  # a further seed shows whether there is any spread
    deviation = (estimate.high - estimate.low) / 2 / _mean_half_width(estimate.n)
    more = (k for k in range(1, at_most) if deviation * _mean_half_width(estimate.n + k) < distance)
    return next(more, at_most)


def _mean_half_width(n: int) -> float:
    """Half the width of the interval of a mean of `n` values, in standard deviations of a value."""
    return _critical(n - 1) / math.sqrt(n)


def _critical(df: float) -> float:
    """The quantile of Student's t distribution that bounds an interval."""
    return float(special.stdtrit(df, 1 - ALPHA / 2))
