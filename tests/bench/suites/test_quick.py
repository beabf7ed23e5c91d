"""What the quick check calls a regression."""

from __future__ import annotations

from bench.suites.harness.comparison import Comparison, Goal
from bench.suites.quick import changes

SPEED, MEMORY = "images/s", "peak memory, GiB"
GOALS = (
    Goal(figure=SPEED, ours="ours", peer="peer", at_least=1.5),
    Goal(figure=MEMORY, ours="ours", peer="peer", at_most=1.0),
    Goal(figure=SPEED, ours="ours", at_least=100),  # an absolute figure means nothing on another machine
)


def comparison(speed: float, memory: float, name: str = "224") -> Comparison:
    rounds = {"ours": [{SPEED: speed, MEMORY: memory}], "peer": [{SPEED: 10.0, MEMORY: 1.0}]}
    return Comparison(name=name, title="Ours and a peer", rounds=rounds, goals=GOALS)


def regressions(speed: float, memory: float) -> list[bool]:
    found = changes([comparison(speed, memory)], {"224": comparison(20.0, 0.5)})
    return [change.is_regression for change in found]


def test_a_ratio_may_move_a_little_and_get_better_as_it_likes() -> None:
    assert regressions(18.0, 0.55) == [False, False]
    assert regressions(40.0, 0.1) == [False, False]


def test_less_speed_and_more_memory_are_regressions() -> None:
    assert regressions(16.0, 0.5) == [True, False]
    assert regressions(20.0, 0.6) == [False, True]


def test_what_the_reference_does_not_hold_is_not_compared() -> None:
    assert changes([comparison(1.0, 9.0, name="new")], {"224": comparison(20.0, 0.5)}) == []
