"""Rules of decision on estimates: one-sided tests against bounds, their combination in a row, levels of several looks.

Every function takes numbers or arrays of equal shape, so that simulations can test the rules themselves.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import special

from analysis.statistics import ALPHA
from reproduce.claims.design import Design, Spending

Numbers = npt.NDArray[np.float64]
LEVEL = ALPHA / 2
"""The level of a test in one direction if a row has no design: that of an end of the 95 % interval."""


def p_above(value: npt.ArrayLike, se: npt.ArrayLike, df: npt.ArrayLike, bound: npt.ArrayLike) -> Numbers:
    """Compute the p value that shows a true value above a bound, by Student's t distribution."""
    return np.asarray(special.stdtr(df, np.subtract(bound, value) / np.asarray(se, dtype=float)))


def p_within(value: npt.ArrayLike, se: npt.ArrayLike, df: npt.ArrayLike, low: float, high: float) -> Numbers:
    """Compute the p value that shows a true value between two bounds, each of which may be infinite.

    With two finite bounds, these are two one-sided tests (TOST), both of which have to be significant.
    """
    return np.asarray(np.maximum(p_above(value, se, df, low), p_above(np.negative(value), se, df, -high)))


def p_outside(value: npt.ArrayLike, se: npt.ArrayLike, df: npt.ArrayLike, low: float, high: float) -> Numbers:
    """Compute the p value that shows a true value below `low` or above `high`, each of which may be infinite.

    With two finite bounds, it is the probability that an estimate lies as far from their middle, on either side, if the
    true value is the bound on the side of the estimate. The smaller of two one-sided p values would err twice as often
    where the bounds are close to each other for the standard error.
    """
    above = p_above(value, se, df, high) + p_above(value, se, df, low)
    below = p_above(np.negative(value), se, df, -low) + p_above(np.negative(value), se, df, -high)
    return np.asarray(np.minimum(np.minimum(above, below), 1))


def any_of(p: npt.ArrayLike) -> Numbers:
    """Combine the p values of alternatives, of which one has to be shown, by the first step of Holm's method.

    Args:
        p: An array whose first axis is that of the alternatives.
    """
    array = np.asarray(p, dtype=float)
    return np.asarray(np.minimum(len(array) * array.min(axis=0), 1), dtype=np.float64)


def all_of(p: npt.ArrayLike) -> Numbers:
    """Combine the p values of hypotheses that all have to be shown: the largest (intersection-union test).

    Args:
        p: An array whose first axis is that of the hypotheses.
    """
    return np.asarray(np.asarray(p, dtype=float).max(axis=0), dtype=np.float64)


def levels(design: Design) -> list[float]:
    """Compute the level of a test in one direction at each look of a design.

    A look has the increment of the spending function between the look before and itself, at the share of the last
    look's seeds. These levels add up to the whole, so that the rule errs no more often than the whole allows however
    the looks depend on each other, also with few degrees of freedom. Boundaries that use the joint normal distribution
    of the looks (Lan and DeMets 1983, Biometrika 70, 659-663) would be less strict, but hold for large samples.
    """
    if isinstance(design.spending, tuple):
        return list(design.spending)
    if design.spending is None:
        return [design.level]
    spent = [spend(design.spending, look / design.looks[-1], design.level) for look in design.looks]
    return [float(level) for level in np.diff([0.0, *spent])]


def spend(function: Spending, share: float, level: float) -> float:
    """Compute how much of a one-sided level is spent when a share of the seeds is there (Lan and DeMets 1983).

    Args:
        function: `obrien-fleming` spends little at first, `pocock` about as much at each look.
        share: The share of the last look's seeds, above 0 and at most 1.
        level: The whole level in one direction.
    """
    if function == "pocock":
        return level * math.log(1 + (math.e - 1) * share)
    quantile = float(special.ndtri(1 - level / 2))
    return 2 * float(special.ndtr(-quantile / math.sqrt(share)))


def row_shown(holds: Sequence[Any], fails: Sequence[Any], level: float) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Decide a row from the p values of its parts.

    Args:
        holds: The p value that shows each part.
        fails: The p value that shows the opposite of each part. NaN marks a part without a test.
        level: The level of a test in one direction.

    Returns:
        Whether the row holds, which asks for all parts, and whether it does not hold, for which one part suffices after
        Holm's correction.
    """
    tested = np.asarray(fails, dtype=float)
    tests = np.maximum((~np.isnan(tested)).sum(axis=0), 1)
    smallest = np.where(np.isnan(tested), 1.0, tested).min(axis=0)
    return all_of(holds) <= level, np.minimum(tests * smallest, 1) <= level
