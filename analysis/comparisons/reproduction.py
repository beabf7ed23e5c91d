"""Judges whether a repeated run reproduces a recorded one: bit for bit, or within the spread of the recorded runs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from analysis.statistics import NAN, mean
from analysis.tables import Cell, Table, interval, number
from reproduce import schema

EQUAL = "equal bit for bit"
WITHIN = "within the 95 % prediction interval of the reference runs"
NOT_REPRODUCED = "not reproduced"
UNDECIDED = "undecided"
"""The verdict on a number that differs where the reference runs are too few to have an interval, or have no spread."""
REPRODUCED = (EQUAL, WITHIN)
COMPARED = {
    schema.FINAL_TOP1: "top-1",
    schema.FINAL_TOP5: "top-5",
    schema.FINAL_VAL_LOSS: "validation loss",
    schema.FINAL_TRAIN_TOP1: "top-1 on training images, augmented",
    schema.FINAL_TRAIN_TOP1_PLAIN: "top-1 on training images, centre crop",
}
"""Final metrics of a run that its key determines up to rounding, each with its name in tables.

Speeds and durations are facts of the machine."""
COLUMNS = ("Run", "Metric", "Repeated", "Recorded", "95 % prediction interval", "n", "Verdict")


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A metric of a repeated run beside the recorded run and the prediction interval of its arm."""

    metric: str
    measured: float
    """The value of the repeated run; NaN if it has none."""
    recorded: float
    """The value of the recorded run with the same key."""
    n: int
    """Number of recorded runs of the arm that have the metric, the run with the same key included."""
    low: float
    """Lower end of the prediction interval; NaN without an interval."""
    high: float
    verdict: str
    reason: str = ""
    """Why the verdict is `UNDECIDED`; empty otherwise."""


def prediction_interval(values: Sequence[float]) -> tuple[float, float]:
    """Compute the interval in which one further value of the same normal distribution lies with 95 % probability.

    It is mean ± t s sqrt(1 + 1/n), with the standard deviation s of n values and the quantile t of Student's t
    distribution with n - 1 degrees of freedom (Hahn and Meeker 1991, Statistical Intervals, section 4.7.1).

    Args:
        values: The values.

    Returns:
        The two ends. Both are NaN if there are fewer than two values, or if they have no spread.
    """
    estimate = mean(values)
    half_width = estimate.half_width * math.sqrt(len(values) + 1)
    return estimate.value - half_width, estimate.value + half_width


def compare(metric: str, measured: float, recorded: float, references: Sequence[float]) -> Comparison:
    """Judge one metric of a repeated run.

    Args:
        metric: The name of the metric.
        measured: Its value in the repeated run.
        recorded: Its value in the recorded run with the same key.
        references: Its values in all recorded runs of the arm, that run included.
    """
    low, high = prediction_interval(references)
    verdict, reason = NOT_REPRODUCED, ""
    if measured == recorded or (math.isnan(measured) and math.isnan(recorded)):
        verdict = EQUAL
    elif not math.isfinite(measured):
        verdict = NOT_REPRODUCED
    elif math.isnan(low):
        verdict = UNDECIDED
        reason = "one reference run has no interval" if len(references) < 2 else "the reference runs have no spread"
    elif low <= measured <= high:
        verdict = WITHIN
    return Comparison(
        metric=metric,
        measured=measured,
        recorded=recorded,
        n=len(references),
        low=low,
        high=high,
        verdict=verdict,
        reason=reason,
    )


def compare_run(
    measured: Mapping[str, float], recorded: Mapping[str, float], references: Sequence[Mapping[str, float]]
) -> list[Comparison]:
    """Judge the metrics `COMPARED` of a repeated run.

    Args:
        measured: The final metrics of the repeated run.
        recorded: Those of the recorded run with the same key. Metrics that it lacks are not compared.
        references: Those of all recorded runs of its arm, that run included.
    """
    return [
        compare(
            metric,
            measured.get(metric, NAN),
            recorded[metric],
            [values[metric] for values in references if metric in values],
        )
        for metric in COMPARED
        if metric in recorded
    ]


def reproduction_table(compared: Mapping[str, Iterable[Comparison]]) -> Table:
    """Build the table of a verification, a row for each run and metric.

    Args:
        compared: The comparisons by the name of the run, such as "reduced-both s0".
    """
    rows = [
        [
            Cell(run),
            Cell(COMPARED.get(one.metric, one.metric)),
            Cell(number(one.measured, 4)),
            Cell(number(one.recorded, 4)),
            Cell(interval(one.low, one.high, number, 4)),
            Cell(str(one.n)),
            Cell(
                "within the interval" if one.verdict == WITHIN else ": ".join(filter(None, (one.verdict, one.reason)))
            ),
        ]
        for run, comparisons in compared.items()
        for one in comparisons
    ]
    return Table("Recorded runs, repeated", COLUMNS, rows, text_columns=frozenset({0, 1, 6}))
