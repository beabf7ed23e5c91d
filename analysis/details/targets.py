"""Times how long training takes to reach an accuracy."""

from __future__ import annotations

import math

import pandas as pd

from analysis.comparisons.survival import log_rank, median_time
from analysis.frames import Recorded
from analysis.statistics import holm
from analysis.tables import DASH, Cell, Table, duration, is_missing, p_value, percent
from reproduce import schema

SHARE = 0.9
"""Share of the baseline's mean final top-1 that is the target where the experiment names none."""


def chosen_target(recorded: Recorded, baseline: str) -> float:
    """Return the target as a fraction: that of the experiment, or else 90 % of the baseline's mean final top-1.

    It is NaN if the experiment names none and no run is finished.
    """
    if recorded.settings.target is not None:
        return recorded.settings.target
    finished = recorded.finished
    if finished.empty:
        return math.nan
    return SHARE * float(finished.loc[finished["arm"] == baseline, schema.FINAL_TOP1].mean())


def times_to_target(recorded: Recorded, target: float) -> pd.DataFrame:
    """Find when each run first had a validation top-1 of at least `target`.

    Args:
        recorded: The experiment.
        target: The top-1, as a fraction from 0 to 1; NaN gives an empty frame.

    Returns:
        A frame with a row for each run with an epoch: run_id, arm, reached, epochs and seconds. For a run that has not
        reached the target, epochs and seconds are those that it has trained for: it is censored there. Seconds are
        those of training and validation, without warm-up and without pauses. They are NaN if they were not recorded.
    """
    columns = ["run_id", "arm", "reached", "epochs", "seconds"]
    if schema.VAL_TOP1 not in recorded.epochs or recorded.epochs.empty or math.isnan(target):
        return pd.DataFrame(columns=columns)
    epochs = recorded.epochs.sort_values(["run_id", "epoch"], kind="stable")
    seconds = epochs[schema.EPOCH_SECONDS] if schema.EPOCH_SECONDS in epochs else pd.Series(math.nan, epochs.index)
    epochs = epochs.assign(
        done=epochs["epoch"] + 1,
        seconds=seconds.groupby(epochs["run_id"]).cumsum(),
        reached=epochs[schema.VAL_TOP1].ge(target),
    )
    hits = epochs[epochs["reached"]].drop_duplicates("run_id")
    misses = epochs[~epochs["run_id"].isin(hits["run_id"])].drop_duplicates("run_id", keep="last")
    return pd.concat([hits, misses]).rename(columns={"done": "epochs"})[columns].reset_index(drop=True)


def targets_table(times: pd.DataFrame, recorded: Recorded, target: float, baseline: str) -> Table:
    """Build the table of times to a target, by Kaplan and Meier, with log-rank tests against the baseline.

    The tests are corrected together by Holm's method. They are on times, or on epochs where times were not recorded.

    Args:
        times: A frame as `times_to_target` returns it.
        recorded: The experiment.
        target: The target, as a fraction.
        baseline: The arm with which the others are compared.
    """
    if times.empty:
        return Table("Time to a target", ["Arm"], [])
    groups = {arm: times[times["arm"] == arm] for arm in recorded.arms}
    unit = "seconds" if times["seconds"].notna().all() else "epochs"
    base = groups.get(baseline, times.iloc[:0])
    raw = [
        math.nan if arm == baseline else log_rank(own[unit], own["reached"], base[unit], base["reached"])
        for arm, own in groups.items()
    ]
    rows = []
    for (arm, own), p in zip(groups.items(), holm(raw), strict=True):
        epochs, seconds = (median_time(own[name], own["reached"]) for name in ("epochs", "seconds"))
        hits = int(own["reached"].sum())
        rows.append(
            [
                Cell(arm, sort=arm),
                Cell(f"{hits} of {len(own)}" if len(own) else DASH, sort=hits),
                Cell(DASH if is_missing(epochs) else f"{epochs:g}", sort="" if is_missing(epochs) else epochs),
                Cell(duration(seconds), sort="" if is_missing(seconds) else seconds),
                Cell(p_value(p), sort="" if is_missing(p) else p),
            ]
        )
    caption = (
        f"Training until validation top-1 first reaches {percent(target, 1)} %: medians by Kaplan and Meier, and "
        f"log-rank tests against {baseline}, corrected by Holm's method"
    )
    return Table(caption, ["Arm", "Runs that reached it", "Epochs", "Time", "p, log-rank"], rows)
