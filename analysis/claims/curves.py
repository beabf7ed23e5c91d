"""Reads accuracies during training from the epochs of recorded runs."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

from analysis.frames import Recorded
from reproduce import schema

EARLY = 0.25
"""Fraction of the epochs after which the early accuracy is taken."""


def early_top1(recorded: Recorded) -> pd.DataFrame:
    """Add to the finished runs their validation top-1 after the first quarter of their epochs, rounded up."""
    epochs = recorded.epochs.assign(done=recorded.epochs["epoch"] + 1)
    last = epochs.groupby("run_id")["done"].transform("max")
    early = epochs[epochs["done"].eq(np.ceil(EARLY * last))]
    return recorded.finished.merge(early[["run_id", schema.VAL_TOP1]], on="run_id")


def top1_after(recorded: Recorded, run_id: str, fraction: float) -> float:
    """Interpolate the validation top-1 of a run after a fraction of its epochs; NaN before the first validation."""
    curve = recorded.epochs[recorded.epochs["run_id"].eq(run_id)].sort_values("epoch")
    done = curve["epoch"] + 1
    return float(np.interp(fraction * done.max(), done, curve[schema.VAL_TOP1], left=math.nan))
