"""Interleaved repetitions of several implementations, and the ratios between them.

Implementations take turns, A B A B ..., so that a change in the load of the machine hits all of them. A ratio is always
taken within one repetition.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console

Measurement = Mapping[str, float]
"""What one repetition measured, by metric with its unit: `{"images/s": 812.0, "images per CPU-second": 410.5}`."""
Measure = Callable[[int], Measurement]
"""Measures the repetition with the given index. Repetition 0 warms up and is dropped."""


@dataclass(frozen=True, kw_only=True)
class Goal:
    """Bounds on the median, over all repetitions, of the ratio between `ours` and `baseline` in one metric.

    Without a baseline, the bounds are on the median of `ours` itself.
    """

    metric: str
    ours: str
    baseline: str | None = None
    at_least: float | None = None
    at_most: float | None = None
    note: str = ""
    """Why the goal was missed, if that is known."""

    def is_reached(self, value: float) -> bool:
        return (self.at_least is None or value >= self.at_least) and (self.at_most is None or value <= self.at_most)


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What implementations measured that took turns at the same work."""

    name: str
    """Short and unique within a result, for example `training-224`. Generated tables refer to it."""
    title: str
    repetitions: Mapping[str, Sequence[Measurement]]
    """The measurements of every repetition by implementation. Ours comes first."""
    goals: tuple[Goal, ...] = ()
    once: Mapping[str, Measurement] = field(default_factory=dict)
    """What is measured once for each implementation, such as seconds to the first batch or peak memory."""
    absent: Mapping[str, str] = field(default_factory=dict)
    """Baselines that could not take part, and why."""

    def ratios(self, metric: str, ours: str, baseline: str) -> list[float]:
        """Returns ours / baseline for every repetition."""
        pairs = zip(self.repetitions[ours], self.repetitions[baseline], strict=True)
        return [a[metric] / b[metric] for a, b in pairs]

    def goal_values(self, goal: Goal) -> list[float]:
        """Returns what a goal bounds, for every repetition."""
        if goal.baseline is None:
            return [measurement[goal.metric] for measurement in self.repetitions[goal.ours]]
        return self.ratios(goal.metric, goal.ours, goal.baseline)

    def to_record(self) -> dict[str, Any]:
        """Returns the comparison as it is written in result files, whose field names never change."""
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
    """Measures each implementation in every repetition, in the order A B A B ..., after one repetition that warms up.

    Args:
        implementations: How each is measured, by name. Ours comes first.
        repetitions: How many repetitions are kept.
        console: Where progress is reported.

    Returns:
        The measurements of all repetitions, by implementation.
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
