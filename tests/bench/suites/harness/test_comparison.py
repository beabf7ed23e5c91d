"""Interleaved repetitions, and the goals of a comparison."""

from __future__ import annotations

from rich.console import Console

from bench.suites.harness.comparison import Comparison, Goal, Measure, interleave

SPEED = "images/s"
REPETITIONS = {"ours": [{SPEED: 20.0}, {SPEED: 30.0}], "baseline": [{SPEED: 10.0}, {SPEED: 10.0}]}


def test_implementations_take_turns_and_the_first_repetition_only_warms_up() -> None:
    turns: list[str] = []

    def implementation(name: str, speeds: list[float]) -> Measure:
        def measure(index: int) -> dict[str, float]:
            turns.append(name)
            return {SPEED: speeds[index]}

        return measure

    measured = interleave(
        {"a": implementation("a", [1, 20, 30]), "b": implementation("b", [1, 10, 10])},
        repetitions=2,
        console=Console(quiet=True),
    )
    assert turns == ["a", "b", "a", "b", "a", "b"]
    assert measured == {"a": [{SPEED: 20}, {SPEED: 30}], "b": [{SPEED: 10}, {SPEED: 10}]}


def test_a_goal_bounds_ratios_within_repetitions_or_our_own_measurements() -> None:
    comparison = Comparison(name="224", title="Training", repetitions=REPETITIONS)
    assert comparison.goal_values(Goal(metric=SPEED, ours="ours", baseline="baseline")) == [2.0, 3.0]
    assert comparison.goal_values(Goal(metric=SPEED, ours="ours")) == [20.0, 30.0]


def test_a_goal_may_have_a_bound_on_either_side() -> None:
    goal = Goal(metric=SPEED, ours="ours", at_least=2.0, at_most=3.0)
    assert [goal.is_reached(value) for value in (1.9, 2.0, 3.0, 3.1)] == [False, True, True, False]


def test_a_record_keeps_the_field_names_of_committed_results() -> None:
    goal = Goal(metric=SPEED, ours="ours", baseline="baseline", at_least=2.0)
    comparison = Comparison(name="224", title="Training", repetitions=REPETITIONS, goals=(goal,))
    assert comparison.to_record() == {
        "name": "224",
        "title": "Training",
        "rounds": REPETITIONS,
        "goals": [
            {"figure": SPEED, "ours": "ours", "peer": "baseline", "at_least": 2.0, "at_most": None, "note": ""},
        ],
        "once": {},
        "absent": {},
    }
