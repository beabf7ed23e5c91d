"""Measures several implementations in interleaved repetitions, and computes the ratios between them.

Implementations take turns, A B A B ..., so that a change in the load of the machine affects all of them. Both values
of a ratio come from the same repetition.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console

Measurement = Mapping[str, float]
"""The values that one repetition of one implementation measured, by metric.

The name of a metric includes its unit: `{"images/s": 812.0, "images per CPU-second": 410.5}`.
"""
Measure = Callable[[int], Measurement]
"""Runs one repetition of an implementation and returns its measurement.

The argument is the index of the repetition. Repetition 0 is a warm-up, whose measurement is dropped.
"""


@dataclass(frozen=True, kw_only=True)
class Goal:
    """Bounds on the ratio of our implementation to a baseline in one metric.

    The median of the ratio over all repetitions has to respect the bounds. Without a baseline, the bounds apply to the
    median of the metric itself.
    """

    metric: str
    """Name of the metric in the measurements, with its unit."""
    ours: str
    """Name of the implementation whose metric is bounded, or is the numerator of the ratio."""
    baseline: str | None = None
    """Name of the implementation whose metric is the denominator of the ratio. None if there is no ratio."""
    at_least: float | None = None
    """Lower bound, inclusive. None if there is none."""
    at_most: float | None = None
    """Upper bound, inclusive. None if there is none."""
    note: str = ""
    """The reason why the goal is missed, if it is known. It is printed only if the goal is missed."""

    def is_reached(self, value: float) -> bool:
        """Return whether a median respects the bounds."""
        return (self.at_least is None or value >= self.at_least) and (self.at_most is None or value <= self.at_most)


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The measurements of several implementations that took turns at the same work, and the goals for them."""

    name: str
    """A short name that is unique within a result, for example `training-224`. Generated tables refer to it."""
    title: str
    """Describes the work in a phrase, for the reader of the tables."""
    repetitions: Mapping[str, Sequence[Measurement]]
    """The measurements of all repetitions that are kept, by the name of the implementation. Ours comes first."""
    goals: tuple[Goal, ...] = ()
    """The goals for these measurements."""
    once: Mapping[str, Measurement] = field(default_factory=dict)
    """Values that are measured only once, such as seconds to the first batch or peak memory, by implementation."""
    absent: Mapping[str, str] = field(default_factory=dict)
    """For each implementation that could not take part, the reason."""

    def ratios(self, metric: str, ours: str, baseline: str) -> list[float]:
        """Return the ratio of one implementation to another in one metric, for each repetition; NaN to one of 0.

        Args:
            metric: Name of the metric in the measurements.
            ours: Name of the implementation in the numerator.
            baseline: Name of the implementation in the denominator.
        """
        pairs = zip(self.repetitions[ours], self.repetitions[baseline], strict=True)
        return [a[metric] / b[metric] if b[metric] else math.nan for a, b in pairs]

    def goal_values(self, goal: Goal) -> list[float]:
        """Return the value that a goal bounds, for each repetition: a ratio, or a metric if there is no baseline."""
        if goal.baseline is None:
            return [measurement[goal.metric] for measurement in self.repetitions[goal.ours]]
        return self.ratios(goal.metric, goal.ours, goal.baseline)

    def to_record(self) -> dict[str, Any]:
        """Return the comparison as it is written to result files.

        The field names of result files never change. A metric is called a figure there, a baseline a peer, and the
        repetitions are called rounds.
        """
        goals = [
            {
                "figure": goal.metric,
                "ours": goal.ours,
                "peer": goal.baseline,
                "at_least": goal.at_least,
                "at_most": goal.at_most,
                "note": goal.note,
            }
            for goal in self.goals
        ]
        return {
            "name": self.name,
            "title": self.title,
            "rounds": self.repetitions,
            "goals": goals,
            "once": self.once,
            "absent": self.absent,
        }


def interleave(
    implementations: Mapping[str, Measure], *, repetitions: int, console: Console
) -> dict[str, list[dict[str, float]]]:
    """Measure all implementations in turn, A B A B ..., in one repetition that warms up and several that are kept.

    Args:
        implementations: For each implementation, by name, the function that measures one repetition. It is called with
            the indices 0 to `repetitions`. Ours comes first.
        repetitions: Number of repetitions that are kept.
        console: Where progress is printed, with one line for each repetition.

    Returns:
        For each implementation, by name, the measurements of the repetitions from index 1.
    """
    measured: dict[str, list[dict[str, float]]] = {name: [] for name in implementations}
    start = time.monotonic()
    for index in range(repetitions + 1):
        for name, measure in implementations.items():
            measurement = dict(measure(index))
            if index:
                measured[name].append(measurement)
        if index == 0:
            console.print("warmed up", highlight=False)
            continue
        left_s = (time.monotonic() - start) / (index + 1) * (repetitions - index)
        latest = "; ".join(
            f"{name} " + " / ".join(f"{value:.4g}" for value in values[-1].values())
            for name, values in measured.items()
        )
        console.print(
            f"repetition {index} of {repetitions}: {latest}; about {left_s:.0f} s left",
            highlight=False,
            soft_wrap=True,
        )
    return measured
