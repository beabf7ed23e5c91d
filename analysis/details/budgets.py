"""Compares arms at equal cost: their validation top-1 once each has used the same multiply-adds, or the same time."""

from __future__ import annotations

import math

import pandas as pd

from analysis.frames import Recorded
from analysis.statistics import mean
from analysis.tables import DASH, Cell, Table, duration, is_missing, percent, quantity, share_interval
from reproduce import schema

MACS, SECONDS = "macs", "seconds"


def spent(recorded: Recorded) -> pd.DataFrame:
    """Add up what the finished runs have spent by the end of each epoch.

    Returns:
        A frame with a row for each epoch: run_id, arm, top1, macs (multiply-adds of the forward passes of training) and
        seconds (of training and validation). What was not recorded is NaN. Multiply-adds are unknown where the size of
        the training images changes from epoch to epoch.
    """
    columns = ["run_id", "arm", "top1", MACS, SECONDS]
    if schema.VAL_TOP1 not in recorded.epochs:
        return pd.DataFrame(columns=columns)
    finished = recorded.finished
    epochs = recorded.finite_epochs.sort_values(["run_id", "epoch"], kind="stable")
    epochs = epochs[epochs["run_id"].isin(finished["run_id"])].reset_index(drop=True)
    runs = epochs["run_id"]

    def of(name: str) -> pd.Series:
        return epochs[name].astype(float) if name in epochs else pd.Series(math.nan, epochs.index)

    # Of no finished run, pandas would take the costs for text.
    costs = finished.set_index("run_id")[schema.COST_MACS_TRAINING] if _has_cost(finished) else pd.Series(dtype=float)
    per_image = runs.map(costs).astype(float)
    images = of(schema.IMAGES_PER_S) * of(schema.TRAIN_SECONDS)
    changes = of(schema.RESOLUTION).groupby(runs).transform("nunique").gt(1)
    macs = (images * per_image).mask(changes)
    return pd.DataFrame(
        {
            "run_id": runs,
            "arm": epochs["arm"],
            "top1": epochs[schema.VAL_TOP1],
            # A sum with a missing part is missing.
            MACS: macs.groupby(runs).cumsum().where(macs.notna().groupby(runs).cummin()),
            SECONDS: of(schema.EPOCH_SECONDS).groupby(runs).cumsum(),
        }
    )


def _has_cost(finished: pd.DataFrame) -> bool:
    return schema.COST_MACS_TRAINING in finished


def budgets_table(recorded: Recorded) -> Table:
    """Build the table of top-1 at equal cost, with a row for each arm.

    The budget is what the cheapest finished run used in all, so that every run has it. The value of a run is that after
    the last epoch within the budget. A column is left out if its cost was not recorded of every run, and the table has
    no rows if both are, or if there is a single arm.
    """
    epochs = spent(recorded)
    arms = [arm for arm in recorded.arms if arm in set(epochs["arm"])]
    budgets = {}
    for cost in (MACS, SECONDS):
        totals = epochs.groupby("run_id")[cost].max()
        if len(totals) and epochs[cost].notna().all():
            budgets[cost] = float(totals.min())
    if len(arms) < 2 or not budgets:
        return Table("Top-1 at equal cost", ["Arm"], [])
    rows = []
    for arm in arms:
        cells = [Cell(arm, sort=arm)]
        for cost, budget in budgets.items():
            within = epochs[(epochs["arm"] == arm) & epochs[cost].le(budget * (1 + 1e-9))]
            value = mean(within.groupby("run_id")["top1"].last())
            aside = share_interval(value.low, value.high)
            missing = is_missing(value.value)
            cells.append(Cell(percent(value.value), "" if aside == DASH else aside, "" if missing else value.value))
        rows.append(cells)
    shown = {MACS: f"{quantity(budgets.get(MACS, 0))} multiply-adds", SECONDS: duration(budgets.get(SECONDS, 0))}
    columns = ["Arm", *(f"Top-1, %, after {shown[cost]}" for cost in budgets)]
    caption = (
        "Top-1 at equal cost, that of the cheapest finished run: validation after the last epoch within it, means over "
        "seeds. A run that is cut there has not come to the end of its learning-rate schedule"
    )
    return Table(caption, columns, rows)
