"""Interleaved rounds: what is counted, and what a result says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from rich.console import Console

from bench.suites.harness.comparison import Comparison, Goal, interleave, publish

ROUNDS = {"ours": [{"images/s": 20.0}, {"images/s": 30.0}, {"images/s": 28.0}], "peer": [{"images/s": 10.0}] * 3}


def comparison(**fields: object) -> Comparison:
    return Comparison(**{"name": "224", "title": "Ours and a peer", "rounds": ROUNDS} | fields)  # type: ignore[arg-type]


def goal(**bounds: float) -> Goal:
    return Goal(figure="images/s", ours="ours", peer="peer", **bounds)  # type: ignore[arg-type]


def test_contestants_take_turns_and_the_first_round_only_warms_up() -> None:
    turns: list[str] = []

    def contestant(name: str, speeds: list[float]):  # type: ignore[no-untyped-def]
        def measure(index: int) -> dict[str, float]:
            turns.append(name)
            return {"images/s": speeds[index]}

        return measure

    measured = interleave(
        {"a": contestant("a", [1, 20, 30]), "b": contestant("b", [1, 10, 10])}, rounds=2, console=Console(quiet=True)
    )
    assert turns == ["a", "b", "a", "b", "a", "b"]
    assert measured == {"a": [{"images/s": 20}, {"images/s": 30}], "b": [{"images/s": 10}, {"images/s": 10}]}


def test_a_missed_goal_is_told_and_still_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "bench" / "result.json"
    absent = {"third": "not installed: pip install third"}
    told = comparison(goals=(goal(at_least=3.5),), absent=absent, once={"ours": {"first batch, s": 0.2}})
    assert publish("loader", [told], setting={"batch": 16}, output=output) == 1
    printed = capsys.readouterr().out
    assert "2.80 (2.00 to 3.00)" in printed
    assert "at least 3.5: 2.8, missed" in printed
    assert "third: did not take part: not installed" in printed
    result = json.loads(output.read_text(encoding="utf-8"))
    (written,) = result["comparisons"]
    assert written["rounds"] == ROUNDS
    assert written["goals"][0]["at_least"] == 3.5
    assert result["suite"] == "loader"
    assert "packages" in result["environment"]


def test_goals_bound_ratios_or_figures_from_either_side() -> None:
    assert publish("x", [comparison(goals=(goal(at_least=2.0), goal(at_most=2.8)))], setting={}) == 0
    assert publish("x", [comparison(goals=(goal(at_most=2.5),))], setting={}) == 1
    alone = Goal(figure="images/s", ours="ours", at_least=28)
    assert publish("x", [comparison(goals=(alone,))], setting={}) == 0
