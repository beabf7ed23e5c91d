"""Summarises the runs of each arm: means over seeds with intervals, and the cost of the network."""

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
"""Metrics that vary from run to run, by the column of `summarise_arms` that holds their mean."""
CONSTANT = {
    "parameters": schema.COST_PARAMETERS,
    "parameters_inference": schema.COST_PARAMETERS_INFERENCE,
    "macs": schema.COST_MACS,
    "macs_training": schema.COST_MACS_TRAINING,
}
"""Metrics that are equal in all runs of an arm, by the column of `summarise_arms` that holds them."""


def summarise_arms(runs: pd.DataFrame, arms: Sequence[str]) -> pd.DataFrame:
    """Summarise the runs of each arm in one row.

    Args:
        runs: Finished runs, in the format of `analysis.frames.Recorded.finished`.
        arms: Names of the arms, in the order of the rows. An arm without runs has a row as well.

    Returns:
        A frame with the columns `arm`, `n` (the number of runs), four columns for each metric of `VARYING` and one for
        each metric of `CONSTANT`. The four are the mean over runs (`top1`), the ends of its 95 % interval (`top1_low`,
        `top1_high`) and the standard deviation between runs (`top1_sd`), in the unit of the metric. Accuracies are
        fractions from 0 to 1. Metrics that were not recorded are NaN.
    """
    rows = []
    for arm in arms:
        own = runs[runs["arm"] == arm]
        row: dict[str, object] = {"arm": arm, "n": len(own)}
        for name, metric in VARYING.items():
            values = own[metric].dropna().to_numpy(dtype=float) if metric in own else np.empty(0)
            average = mean(values)
            sd = average.se * math.sqrt(average.n)
            row |= {name: average.value, f"{name}_low": average.low, f"{name}_high": average.high, f"{name}_sd": sd}
        for name, metric in CONSTANT.items():
            row[name] = own[metric].iloc[0] if metric in own and len(own) else NAN
        rows.append(row)
    return pd.DataFrame(rows)


def within_range(summary: pd.DataFrame) -> pd.DataFrame:
    """Cut the intervals of accuracies at 0 and 1, which no accuracy leaves, in a frame of `summarise_arms`."""
    ends = [f"{name}_{end}" for name in ("top1", "top5", "train_top1") for end in ("low", "high")]
    return summary.assign(**{name: summary[name].clip(0, 1) for name in ends})


def concurrent_runs(runs: pd.DataFrame) -> int:
    """Compute the largest number of runs that were under way at the same time on one host.

    Runs without an end are counted as still under way. Runs without a recorded host are treated as if they shared one.

    Args:
        runs: Runs in the format of `analysis.frames.Recorded.runs`.
    """
    most = 0
    hosts = runs[schema.TAG_HOST].fillna("") if schema.TAG_HOST in runs else pd.Series("", index=runs.index)
    for _, own in runs.groupby(hosts):
        for start in own["started"]:
            most = max(most, int(((own["started"] <= start) & (own["ended"].fillna(math.inf) > start)).sum()))
    return most
