"""Interleaved rounds: what is counted, and what a result says."""

from __future__ import annotations

import json
from pathlib import Path

from rich.console import Console

from bench.suites.rounds import interleave, report


def test_contestants_take_turns_and_the_first_round_only_warms_up() -> None:
    turns: list[str] = []

    def contestant(name: str, speeds: list[float]):  # type: ignore[no-untyped-def]
        def measure(index: int) -> float:
            turns.append(name)
            return speeds[index]

        return measure

    speeds = interleave(
        {"a": contestant("a", [1, 20, 30]), "b": contestant("b", [1, 10, 10])}, rounds=2, console=Console(quiet=True)
    )
    assert turns == ["a", "b", "a", "b", "a", "b"]
    assert speeds == {"a": [20, 30], "b": [10, 10]}


def test_a_missed_goal_is_told_and_still_written(tmp_path: Path) -> None:
    output = tmp_path / "bench" / "result.json"
    speeds = {"ours": [20.0, 30.0, 28.0], "peer": [10.0, 10.0, 20.0]}
    assert report("Ours against peer", speeds, goal=2.5, setting={"batch": 16}, output=output) == 1
    result = json.loads(output.read_text())
    assert result["ratios"] == [2.0, 3.0, 1.4]
    assert result["ratio_median"] == 2.0
    assert result["images_per_s"] == speeds
    assert "packages" in result["environment"]
    assert report("Ours against peer", speeds, goal=2.0, setting={}, output=None) == 0
