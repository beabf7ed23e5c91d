"""Measures of how large a difference is beside its test: in standard deviations, as a probability, within a margin."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy import special

from analysis.statistics import NAN, Estimate, mean


def hedges_g(value: float, samples: Sequence[npt.ArrayLike]) -> float:
    """Compute Hedges' g: a difference in standard deviations between seeds, corrected for small samples.

    The standard deviation is pooled over the samples by their degrees of freedom, and the correction is exact (Hedges
    1981, Journal of Educational Statistics 6, 107-128, equation 6e).

    Args:
        value: The difference or another contrast of means.
        samples: The samples behind it.

    Returns:
        NaN if the samples have no spread, or fewer than two degrees of freedom together.
    """
    parts = [part for part in map(mean, samples) if part.n > 1]
    df = sum(part.n - 1 for part in parts)
    largest = max((part.se * math.sqrt(part.n) for part in parts), default=NAN)
    if df < 2 or not 0 < largest < math.inf:
        return NAN
    squares = sum((part.n - 1) * (part.se * math.sqrt(part.n) / largest) ** 2 for part in parts)
    correction = math.exp(special.gammaln(df / 2) - special.gammaln((df - 1) / 2)) / math.sqrt(df / 2)
    return correction * (value / largest) / math.sqrt(squares / df)


def probability_superior(a: npt.ArrayLike, b: npt.ArrayLike) -> float:
    """Compute how often a value of `a` is above one of `b`, ties counted half: Mann and Whitney's U over all pairs.

    Returns:
        A probability from 0 to 1; NaN if a sample is empty or has values that are not finite.
    """
    first, second = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    if not (len(first) and len(second) and np.isfinite(first).all() and np.isfinite(second).all()):
        return NAN
    above, equal = first[:, None] > second, first[:, None] == second
    return float(above.mean() + equal.mean() / 2)


def equivalence(estimate: Estimate, margin: float) -> float:
    """Test whether the true value lies within a margin around 0, by two one-sided t tests.

    The test of Schuirmann (1987, Journal of Pharmacokinetics and Biopharmaceutics 15, 657-680) finds equivalence at the
    level of 5 % if the 90 % interval lies within the margin.

    Args:
        estimate: The estimate.
        margin: The margin, above 0, in the unit of the value.

    Returns:
        The larger of the two p values; NaN if the estimate has no interval or the margin is NaN.
    """
    if math.isnan(estimate.low) or math.isnan(margin):
        return NAN
    above = special.stdtr(estimate.df, -(estimate.value + margin) / estimate.se)
    below = special.stdtr(estimate.df, (estimate.value - margin) / estimate.se)
    return float(max(above, below))


def correlation(a: npt.ArrayLike, b: npt.ArrayLike) -> float:
    """Compute Pearson's correlation of two samples of the same seeds; NaN below three seeds or without spread."""
    first, second = (np.asarray(values, dtype=float) for values in (a, b))
    if len(first) < 3 or not (mean(first).se > 0 and mean(second).se > 0):
        return NAN
    scaled = [values / float(np.abs(values).max()) for values in (first, second)]
    one, other = (values - float(values.mean()) for values in scaled)
    spread = math.sqrt(float(one @ one)) * math.sqrt(float(other @ other))
    return min(max(float(one @ other) / spread, -1.0), 1.0) if spread > 0 else NAN
