"""Images/s by number of ranks, and the prediction that they are compared with."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bench.planning.communication import AllReduceTiming
from bench.suites.scaling.prediction import PREDICTED, SPEED, Prediction, RankSet, predict
from bench.suites.scaling.suite import world_sizes
from reproduce.limits import usable_cores

MIB = 2**20
NODES = RankSet(ranks=3, machines=3, backend="gloo", batch=10, side=224)
ALONE_S = 2.0
"""Seconds of a step without communication."""
ALL_REDUCE_S = 0.5
"""Seconds that 4 MB of gradients take over three ranks at 4/3 of them twice, without latency."""
TIMINGS = [AllReduceTiming(3, size, 2 * 2 / 3 * size / (4e6 * 4 / 3 / ALL_REDUCE_S)) for size in (MIB, 8 * MIB)]


def prediction(*measured_s: float) -> Prediction:
    """The prediction of a network with a million parameters, where a connected step takes `measured_s` seconds."""
    repetitions = {
        NODES.connected: [{SPEED: 30 / seconds} for seconds in measured_s],
        NODES.unconnected: [{SPEED: 30 / ALONE_S} for _ in measured_s],
    }
    return predict(NODES, repetitions, TIMINGS, parameters=1_000_000)


@pytest.mark.parametrize(
    ("largest", "sizes"), [(2, [2]), (3, [2, 3]), (4, [2, 4]), (6, [2, 4, 6]), (8, [2, 4, 8]), (12, [2, 4, 8, 12])]
)
def test_world_sizes_double_up_to_the_largest_number_of_ranks(largest: int, sizes: list[int]) -> None:
    assert world_sizes(largest, largest) == sizes


def test_ranks_that_share_cores_come_after_those_that_fit() -> None:
    assert world_sizes(6, 3) == [2, 3, 4, 6]


def test_a_step_is_predicted_to_last_as_long_as_one_alone_and_its_all_reduce() -> None:
    found = prediction(ALONE_S + ALL_REDUCE_S)
    [predicted] = found.comparison.repetitions[PREDICTED]
    assert predicted[SPEED] == pytest.approx(30 / (ALONE_S + ALL_REDUCE_S))
    assert found.link["error"] == pytest.approx(0, abs=1e-6)
    assert (found.link["ranks"], found.link["machines"]) == (3, 3)
    assert found.images_per_s == pytest.approx(10 / ALONE_S)


@pytest.mark.parametrize(("measured_s", "reached"), [(2.9, True), (3.0, False), (2.2, True), (2.15, False)])
def test_the_goal_is_that_the_median_is_within_15_percent_of_what_is_predicted(
    measured_s: float, reached: bool
) -> None:
    comparison = prediction(2.0, measured_s, 4.0).comparison
    [goal] = comparison.goals
    assert goal.is_reached(sorted(comparison.goal_values(goal))[1]) is reached


def test_a_slow_rank_is_the_speed_of_all() -> None:
    assert NODES.images_per_s(4, 3, [1.0, 5.0, 1.0]) == pytest.approx(3 * 10 * 4 / 5)
    assert NODES.images_per_s(4, 1, [2.0, None, None]) == pytest.approx(10 * 4 / 2)


@pytest.mark.long
def test_ranks_are_measured_up_to_two_on_a_core_and_only_those_that_fit_become_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    cores = usable_cores()
    options = ["--ranks", str(2 * cores), "--side", "32", "--batch", "4", "--repetitions", "2", "--output", "s.json"]
    done = subprocess.run(
        [sys.executable, "-m", "bench.cli", "bench", "scaling", *options],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=3600,
        check=False,
        encoding="utf-8",
    )
    assert done.returncode in (0, 1), done.stderr  # goals are for quiet machines
    result = json.loads((tmp_path / "s.json").read_text(encoding="utf-8"))
    assert [comparison["name"] for comparison in result["comparisons"]] == [
        f"{ranks} ranks" for ranks in world_sizes(2 * cores, cores)
    ]
    assert f" on {cores} cores" in result["comparisons"][-1]["title"]
    links = result["setting"]["links"]
    assert [link["ranks"] for link in links] == [ranks for ranks in world_sizes(2 * cores, cores) if ranks <= cores]
    assert all(link["bytes_per_s"] > 1e6 and abs(link["error"]) < 0.9 for link in links)
    assert list((tmp_path / "deeper" / "bench").glob("*/scaling.json")), "kept for this kind of machine"
