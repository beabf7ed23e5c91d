"""Compares what the two sides of a contrast cost."""

from __future__ import annotations

import pandas as pd

from analysis.effects import Decision
from analysis.statistics import NAN
from reproduce import schema


def cost_ratio(decision: Decision, finished: pd.DataFrame, metric: str = schema.COST_MACS) -> float:
    """Return the cost of the arms with the plus level as a ratio to that of the arms with the minus level.

    Args:
        decision: A main effect or a pair.
        finished: The finished runs, in the format of `analysis.frames.Recorded.finished`.
        metric: The metric of the cost, which is equal in all runs of an arm.

    Returns:
        The ratio of the means; NaN for an interaction, and if an arm has not recorded its cost.
    """
    if metric not in finished or not decision.pairs:
        return NAN
    costs = finished.groupby("arm")[metric].first()
    plus, minus = (costs[list(arms)] for arms in zip(*decision.pairs, strict=True))
    if plus.isna().any() or minus.isna().any() or not minus.sum() > 0:
        return NAN
    return float(plus.mean() / minus.mean())
