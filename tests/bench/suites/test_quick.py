"""What `deeper bench --quick` calls a regression."""

from __future__ import annotations

from bench.suites.harness.comparison import Comparison, Goal
from bench.suites.quick import ratio_changes

SPEED, MEMORY = "images/s", "peak memory, GiB"
GOALS = (
    Goal(metric=SPEED, ours="ours", baseline="baseline", at_least=1.5),
    Goal(metric=MEMORY, ours="ours", baseline="baseline", at_most=1.0),
    Goal(metric=SPEED, ours="ours", at_least=100),  # has no baseline, and means nothing on another machine
)


def comparison(speed: float, memory: float, name: str = "224") -> Comparison:
    repetitions = {"ours": [{SPEED: speed, MEMORY: memory}], "baseline": [{SPEED: 10.0, MEMORY: 1.0}]}
    return Comparison(name=name, title="Ours and a baseline", repetitions=repetitions, goals=GOALS)


def regressions(speed: float, memory: float) -> list[bool]:
    changes = ratio_changes([comparison(speed, memory)], {"224": comparison(20.0, 0.5)})
    return [change.is_regression for change in changes]


def test_a_ratio_may_get_a_little_worse_and_any_amount_better() -> None:
    assert regressions(18.0, 0.55) == [False, False]
    assert regressions(40.0, 0.1) == [False, False]


def test_less_speed_and_more_memory_are_regressions() -> None:
    assert regressions(16.0, 0.5) == [True, False]
    assert regressions(20.0, 0.6) == [False, True]


def test_a_comparison_that_the_reference_lacks_is_left_out() -> None:
    assert ratio_changes([comparison(1.0, 9.0, name="new")], {"224": comparison(20.0, 0.5)}) == []
