"""The runs of each arm in numbers: means over seeds with intervals, and what the network costs."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd

from analysis.statistics import NAN, mean
from reproduce import schema

VARYING = {
    "top1": schema.FINAL_TOP1,
    "top5": schema.FINAL_TOP5,
    "val_loss": schema.FINAL_VAL_LOSS,
    "train_top1": schema.FINAL_TRAIN_TOP1,
    "images_per_s": schema.FINAL_IMAGES_PER_S,
    "duration_s": schema.FINAL_DURATION_S,
    "gpu_busy_percent": schema.GPU_BUSY_PERCENT,
    "shared_gpu_busy_percent": schema.SHARED_GPU_BUSY_PERCENT,
    "gpu_energy_j": schema.GPU_ENERGY_J,
    "cpu_percent": schema.HOST_CPU_PERCENT,
}
"""Columns of what varies from run to run, by the metric that they summarise."""
CONSTANT = {
    "parameters": schema.COST_PARAMETERS,
    "parameters_inference": schema.COST_PARAMETERS_INFERENCE,
    "macs": schema.COST_MACS,
    "macs_training": schema.COST_MACS_TRAINING,
}
"""Columns of what all runs of an arm have in common, by metric."""


def summarise_arms(runs: pd.DataFrame, arms: Sequence[str]) -> pd.DataFrame:
    """One row for each arm: the number of runs, statistics of what varies over seeds, and what the network costs.

    A metric of `VARYING` has four columns: its mean (`top1`), the ends of the mean's interval (`top1_low`, `top1_high`)
    and the standard deviation (`top1_sd`). What was not recorded is NaN.

    Args:
        runs: Finished runs, as `analysis.frames.Recorded.finished`.
        arms: The order of the rows.
    """
    rows = []
    for arm in arms:
        own = runs[runs["arm"] == arm]
        row: dict[str, object] = {"arm": arm, "n": len(own)}
        for name, metric in VARYING.items():
            values = own[metric].dropna().to_numpy(dtype=float) if metric in own else np.empty(0)
            average = mean(values)
            sd = float(values.std(ddof=1)) if len(values) > 1 else NAN
            row |= {name: average.value, f"{name}_low": average.low, f"{name}_high": average.high, f"{name}_sd": sd}
        for name, metric in CONSTANT.items():
            row[name] = own[metric].iloc[0] if metric in own and len(own) else NAN
        rows.append(row)
    return pd.DataFrame(rows)


def concurrent_runs(runs: pd.DataFrame) -> int:
    """The largest number of runs that were under way at the same time on one host."""
    most = 0
    hosts = runs[schema.TAG_HOST].fillna("") if schema.TAG_HOST in runs else pd.Series("", index=runs.index)
    for _, own in runs.groupby(hosts):
        for start in own["started"]:
            most = max(most, int(((own["started"] <= start) & (own["ended"].fillna(math.inf) > start)).sum()))
    return most
