"""Compares times until something happens where some runs end before it does: they are censored there."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import numpy.typing as npt

from analysis.statistics import NAN

MOST_DIVISIONS = 20_000
"""Number of ways to divide the runs up to which the log-rank test goes through all of them."""


def kaplan_meier(times: npt.ArrayLike, reached: npt.ArrayLike) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Estimate the share of runs that have reached a target by each time (Kaplan and Meier 1958).

    Args:
        times: When each run reached the target, or how long it trained without reaching it, [n], none of them NaN.
        reached: Whether it reached the target, [n].

    Returns:
        The times in ascending order, each once, and the estimated shares from each time on.
    """
    values, hit = np.asarray(times, dtype=float), np.asarray(reached, dtype=bool)
    moments = np.unique(values)
    at_risk = (values >= moments[:, None]).sum(axis=1)
    events = ((values == moments[:, None]) & hit).sum(axis=1)
    return moments, 1 - np.cumprod(1 - events / at_risk)


def median_time(times: npt.ArrayLike, reached: npt.ArrayLike) -> float:
    """Estimate the median time by Kaplan and Meier: when at least half of the runs have reached the target.

    Args:
        times: As in `kaplan_meier`, and NaN where a time is not known.
        reached: As in `kaplan_meier`.

    Returns:
        The time; NaN if the estimated share of runs that reach the target stays below one half, or if a time is NaN.
    """
    if not np.any(reached) or np.isnan(np.asarray(times, dtype=float)).any():
        return NAN
    moments, shares = kaplan_meier(times, reached)
    above = moments[shares >= 0.5 - 1e-12]
    return float(above[0]) if len(above) else NAN


def log_rank(
    times_a: npt.ArrayLike, reached_a: npt.ArrayLike, times_b: npt.ArrayLike, reached_b: npt.ArrayLike
) -> float:
    """Test whether two groups reach a target equally fast, by the log-rank test.

    Up to `MOST_DIVISIONS` divisions of the runs into groups of these sizes, the p value is exact: the share of them
    whose numbers of runs that reached the target differ from the expected ones by at least as much. The normal
    approximation, which is used above, rejects too often with few runs.

    Returns:
        The two-sided p value; NaN if no run reached the target or a group is empty.
    """
    times = [np.asarray(values, dtype=float) for values in (times_a, times_b)]
    hits = [np.asarray(values, dtype=bool) for values in (reached_a, reached_b)]
    n, total = len(times[0]), len(times[0]) + len(times[1])
    if not 0 < n < total or not any(hit.any() for hit in hits):
        return NAN
    if math.comb(total, n) > MOST_DIVISIONS:
        from scipy import stats  # takes a second to import

        pair = [
            stats.CensoredData(uncensored=values[hit], right=values[~hit])  # type: ignore[no-untyped-call]
            for values, hit in zip(times, hits, strict=True)
        ]
        return float(stats.logrank(*pair).pvalue)
    scores = log_rank_scores(np.concatenate(times), np.concatenate(hits))
    divisions = np.array(list(itertools.combinations(range(total), n)))
    found = np.abs(scores[divisions].sum(axis=1))
    return float((found >= abs(scores[:n].sum()) - 1e-9).mean())


def log_rank_scores(times: npt.NDArray[np.float64], reached: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    """Compute each run's share in the log-rank statistic: 1 if it reached the target, less the expected number.

    The sum over a group is the number of its runs that reached the target minus the number that is expected if all runs
    are equally fast: the Nelson-Aalen estimate over all of them, at the run's time.
    """
    at_risk = (times[None, :] >= times[:, None]).sum(axis=1)
    hazard = np.where(reached, 1 / at_risk, 0.0)
    expected = (hazard[None, :] * (times[None, :] <= times[:, None])).sum(axis=1)
    return np.asarray(reached - expected, dtype=float)
