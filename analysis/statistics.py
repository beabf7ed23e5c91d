"""Statistics of a few runs: means, contrasts of means and ratios with their confidence intervals, tests and power.

All intervals are Student's t intervals. Bootstrap intervals are not used, because with three to ten seeds they cover
the true value far less often than their level says. Variances are never pooled, because arms may differ in them.
"""

from __future__ import annotations

import math
import sys
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import numpy.typing as npt
from scipy import special

LEVEL = 0.95
"""The confidence level of every interval."""
ALPHA = 1 - LEVEL
"""The significance level of every test."""
POWER = 0.8
"""The probability with which a test finds an effect of the smallest detectable size."""
NAN = float("nan")
MAX = sys.float_info.max
MAX_LOGARITHM = math.log(MAX)
NEGLIGIBLE = 1e-12
"""The largest spread that counts as none, as a fraction of the numbers' magnitude.

The mean of equal numbers may differ from them in the last digit, and so may differences that ought to be equal: some
1e-16 of their magnitude. Measured values differ by far more, or not at all: accuracies on 50 000 images by 2e-5.
"""


@dataclass(frozen=True)
class Estimate:
    """An estimate of a mean or of a contrast of means, with its interval and a test against 0.

    An estimate has no interval if there are too few values to estimate their spread, if they have no spread, or if the
    interval exceeds the range of floats. Then `low`, `high`, `half_width`, `p` and `detectable` are NaN.
    """

    value: float
    """The mean or the contrast of means; NaN if there are no values."""
    n: int
    """The number of values behind the estimate."""
    se: float = NAN
    """Standard error of `value`; 0 if the values have no spread, NaN if it is unknown."""
    df: float = NAN
    """Degrees of freedom of the standard error; NaN if it is unknown."""
    replicates: int = 0
    """The number of values of the sample that has the fewest; `n` by default, as with one sample."""
    most: int = 0
    """The number of values of the sample that has the most; `replicates` by default."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "replicates", self.replicates or self.n)
        object.__setattr__(self, "most", self.most or self.replicates)

    no_effect: ClassVar[float] = 0.0
    """The true value if there is no effect."""

    @property
    def _has_interval(self) -> bool:
        if not (self.se > 0 and self.df > 0 and math.isfinite(self.value)):
            return False
        return math.isfinite(abs(self.value) + _critical(self.df) * self.se)

    @property
    def half_width(self) -> float:
        """Half the width of the 95 % interval, in the unit of `value`."""
        return _critical(self.df) * self.se if self._has_interval else NAN

    @property
    def low(self) -> float:
        """The lower end of the 95 % interval."""
        return self.value - self.half_width

    @property
    def high(self) -> float:
        """The upper end of the 95 % interval."""
        return self.value + self.half_width

    @property
    def p(self) -> float:
        """The two-sided p value of the hypothesis that the true value is 0."""
        if not self._has_interval:
            return NAN
        return 2 * float(special.stdtr(self.df, -min(abs(self.value) / self.se, MAX)))

    @property
    def detectable(self) -> float:
        """The smallest true value that a single t test would find with a power of 80 %, see `detectable_at`."""
        return self.detectable_at(ALPHA)

    def detectable_at(self, level: float) -> float:
        """Return the smallest true value that a t test at a level would find with a power of 80 %.

        It is that of a further experiment with the same arms, seeds and true spread. The degrees of freedom which such
        an experiment estimates (Satterthwaite) are fewer on average than those of the true variances, by which the
        power would come out too high: with expectations in place of the estimated variances, `df` becomes the number
        below, which is `df` itself for one sample.
        """
        if not self._has_interval:
            return NAN
        return detectable(self.se, (self.df + 2) * (self.replicates - 1) / (self.replicates + 1), level=level)

    def __neg__(self) -> Estimate:
        """The estimate of the same contrast with the opposite sign."""
        return replace(self, value=-self.value)


@dataclass(frozen=True)
class Ratio:
    """A geometric mean of ratios with its interval.

    Value and interval are those of the mean logarithm, transformed back to factors. If the mean logarithm has no
    interval, `low`, `high` and `detectable` are NaN. Factors above the range of floats are infinite.
    """

    log: Estimate
    """The mean of the ratios' natural logarithms."""

    no_effect: ClassVar[float] = 1.0
    """The true ratio if there is no effect."""

    @property
    def value(self) -> float:
        """The geometric mean of the ratios."""
        return _exp(self.log.value)

    @property
    def n(self) -> int:
        """The number of ratios."""
        return self.log.n

    @property
    def replicates(self) -> int:
        """The number of ratios or, of a contrast, of values of the sample that has the fewest."""
        return self.log.replicates

    @property
    def low(self) -> float:
        """The lower end of the 95 % interval, as a factor."""
        return _exp(self.log.low)

    @property
    def high(self) -> float:
        """The upper end of the 95 % interval, as a factor."""
        return _exp(self.log.high)

    @property
    def detectable(self) -> float:
        """The smallest true factor above 1 that a t test on the logarithms would find with a power of 80 %."""
        return _exp(self.log.detectable)


def is_clear(estimate: Estimate | Ratio) -> bool:
    """Return whether the 95 % interval excludes `no_effect`: 0 for an `Estimate`, 1 for a `Ratio`.

    It is False if the estimate has no interval.
    """
    return estimate.low > estimate.no_effect or estimate.high < estimate.no_effect


def mean(values: npt.ArrayLike, *, magnitude: float = 0.0) -> Estimate:
    """Estimate the mean of independent values, with the interval of a one-sample t test.

    With fewer than two values, and with values that agree up to `NEGLIGIBLE`, the estimate has no interval. Without
    values, and with values that are not finite, its `value` is NaN.

    Args:
        values: The values.
        magnitude: The magnitude of the numbers from which the values were computed, if it is larger than that of the
            values. Differences of equal numbers keep a residue of rounding that is in proportion to the numbers.
    """
    array = np.asarray(values, dtype=float)
    n = len(array)
    if not n or not np.isfinite(array).all():
        return Estimate(NAN, n)
    scale = float(np.abs(array).max()) or 1.0  # scaled values have sums and squares within the range of floats
    scaled = array / scale
    value = scale * min(max(float(scaled.mean()), float(scaled.min())), float(scaled.max()))
    if n < 2:
        return Estimate(value, n)
    if float(np.ptp(scaled)) <= NEGLIGIBLE * max(1.0, magnitude / scale):
        return Estimate(value, n, se=0.0, df=n - 1)
    se = scale * (float(scaled.std(ddof=1)) / math.sqrt(n))
    return Estimate(value, n, se=se, df=n - 1)


def ratio(logarithms: npt.ArrayLike, *, magnitude: float = 0.0) -> Ratio:
    """Estimate the geometric mean of independent ratios.

    Args:
        logarithms: The natural logarithms of the ratios.
        magnitude: The magnitude of the logarithms from which those of the ratios were computed, as in `mean`.
    """
    return Ratio(mean(logarithms, magnitude=magnitude))


def contrast(samples: Sequence[npt.ArrayLike], weights: Sequence[float]) -> Estimate:
    """Estimate a weighted sum of the means of independent samples, each of which has a variance of its own.

    The degrees of freedom are those of Satterthwaite (1946, Biometrics Bulletin 2, 110-114); for two samples with the
    weights 1 and -1, they are those of Welch's t test. If a sample has fewer than two values, or if no sample has any
    spread, the estimate has no interval.

    Args:
        samples: The samples, at least one.
        weights: One weight for each sample, none of them 0. They are 1 and -1 for a difference.
    """
    means = [mean(sample) for sample in samples]
    sizes = [part.n for part in means]
    n, replicates, most = sum(sizes), min(sizes), max(sizes)
    terms = [weight * part.value for weight, part in zip(weights, means, strict=True)]
    scale = max(map(abs, terms)) or 1.0  # scaled terms have a sum within the range of floats
    value = scale * math.fsum(term / scale for term in terms) if math.isfinite(scale) else math.fsum(terms)
    errors = [abs(weight) * part.se for weight, part in zip(weights, means, strict=True)]
    se = math.hypot(*errors) if not any(map(math.isnan, errors)) else NAN
    if not 0 < se < math.inf:
        return Estimate(value, n, se=se if se == 0 else NAN, replicates=replicates, most=most)
    # Shares of the variance: the variance itself may leave the range of floats.
    df = 1 / sum((error / se) ** 4 / part.df for error, part in zip(errors, means, strict=True))
    return Estimate(value, n, se=se, df=df, replicates=replicates, most=most)


def welch(a: npt.ArrayLike, b: npt.ArrayLike) -> Estimate:
    """Estimate the mean of `a` minus the mean of `b` with Welch's t test, as `contrast` does."""
    return contrast([a, b], [1.0, -1.0])


def holm(p: Sequence[float]) -> list[float]:
    """Adjust a family of p values with Holm's step-down method.

    Args:
        p: The p values of the family. NaN marks a test that was not made. Such tests do not count as members of the
            family.

    Returns:
        The adjusted p values, at most 1, in the order of `p`. Those that were NaN stay NaN.
    """
    array = np.asarray(p, dtype=float)
    adjusted = np.full(len(array), NAN)
    tested = np.flatnonzero(~np.isnan(array))
    order = tested[np.argsort(array[tested], kind="stable")]
    factors = len(order) - np.arange(len(order))
    adjusted[order] = np.minimum(np.maximum.accumulate(array[order] * factors), 1)
    return [float(value) for value in adjusted]


def detectable(se: float, df: float, *, power: float = POWER, level: float = ALPHA) -> float:
    """Compute the smallest true effect that a two-sided t test finds with a given power.

    It is `se` times the noncentrality at which the test reaches the power. Rejections on the opposite side are
    neglected, because their probability is practically zero at useful powers.

    Args:
        se: Standard error of the estimated effect.
        df: Degrees of freedom of the standard error.
        power: Probability of finding the effect, between 0 and 1.
        level: The level of the test.

    Returns:
        The size of the effect, in the unit of `se`.
    """
    return float(special.nctdtrinc(df, 1 - power, _critical(df, level))) * se


def seeds_needed(estimate: Estimate | Ratio, distance: float, *, at_most: int) -> int:
    """Compute how many further seeds an arm would narrow an interval to less than `distance` on each side.

    The computation assumes that the value and the spread between seeds stay as they are.

    Args:
        estimate: A mean or a contrast of means with one value for each arm and seed, or a ratio of such means.
        distance: Distance from the estimate's value to the bound that the interval has to exclude, in the unit of the
            value.
        at_most: The largest number that is returned.

    Returns:
        The number of further seeds, from 1 to `at_most`. It is `at_most` if fewer seeds do not suffice, and 1 if the
        estimate has no interval.
    """
    if math.isnan(estimate.low):
        return 1  # a further seed shows whether there is any spread
    log = estimate.log if isinstance(estimate, Ratio) else estimate
    unit = (estimate.high / 2 - estimate.low / 2) / _critical(log.df)
    seeds = log.replicates
    more = (k for k in range(1, at_most) if unit * _critical(_df(log, seeds + k)) * _shrunk(log, seeds + k) < distance)
    return next(more, at_most)


def seeds_to_find(estimate: Estimate, effect: float, *, at_most: int, level: float = ALPHA) -> int | None:
    """Compute how many seeds an arm would have a power of 80 % of finding a named effect.

    The computation assumes that the spread between seeds stays as it is, and that all arms have as many seeds.

    Args:
        estimate: A mean or a contrast of means.
        effect: The true value that is to be found, above 0, in the unit of the value.
        at_most: The largest number that is returned; it is returned as well if it does not suffice.
        level: The level of the test.

    Returns:
        The number of seeds, from 2 to `at_most`; None if the estimate has no interval.
    """
    if math.isnan(estimate.low):
        return None

    def is_found(seeds: int) -> bool:
        se, df = estimate.se * _shrunk(estimate, seeds), _df(estimate, seeds)
        return replace(estimate, se=se, df=df, replicates=seeds).detectable_at(level) <= effect

    return bisect_left(range(at_most), True, lo=2, key=is_found)


def _df(estimate: Estimate, seeds: int) -> float:
    """Compute the degrees of freedom of an estimate if each arm had this number of seeds."""
    return estimate.df * (seeds - 1) / (estimate.replicates - 1)


def _shrunk(estimate: Estimate, seeds: int) -> float:
    """Compute the ratio of the standard error with this number of seeds in each arm to the present one."""
    return math.sqrt(estimate.replicates / seeds)


def _exp(logarithm: float) -> float:
    """Compute the exponential function. The result is infinite above the range of floats."""
    return math.exp(logarithm) if logarithm <= MAX_LOGARITHM or math.isnan(logarithm) else math.inf


def _critical(df: float, level: float = ALPHA) -> float:
    """Compute the two-sided critical value of Student's t distribution at a level."""
    return float(special.stdtrit(df, 1 - level / 2))
