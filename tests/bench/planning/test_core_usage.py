"""What the doctor says about the use of CPU cores, from a kept result of `deeper bench scaling`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench.commands.doctor.command import machine_checks
from bench.planning import core_usage
from bench.results.store import latest_results_folder


def _keep(threads: float, ranks: float, runs: float) -> None:
    rounds = {"2 ranks": ranks, "2 ranks, not connected": runs, "1 rank, 2 threads": threads}
    comparison = {
        "name": "2 ranks",
        "rounds": {name: [{"images/s": value * noise} for noise in (0.5, 1, 1.1)] for name, value in rounds.items()},
    }
    latest_results_folder().mkdir(parents=True, exist_ok=True)
    content = {"date": "2026-01-02", "comparisons": [comparison]}
    (latest_results_folder() / "scaling.json").write_text(json.dumps(content), encoding="utf-8")


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def test_without_a_measurement_the_doctor_names_the_command(tmp_path: Path) -> None:
    (check,) = (found for found in machine_checks(tmp_path, tmp_path) if found.name == "threads and ranks")
    assert "not measured" in check.detail
    assert check.hint == "measure it with `deeper bench scaling`"


def test_the_fastest_use_of_the_cores_is_recommended_with_its_ratio_and_source(tmp_path: Path) -> None:
    _keep(threads=10, ranks=8, runs=12)
    (check,) = (found for found in machine_checks(tmp_path, tmp_path) if found.name == "threads and ranks")
    assert check.detail == (
        "a run alone: workers: 1 with 2 CPUs (1.25 x 2 with 1); many runs: runs of 1 CPU each side by side (1.20 x); "
        "deeper bench scaling of 2026-01-02"
    )


def test_the_recommendation_follows_the_figures() -> None:
    _keep(threads=10, ranks=15, runs=12)
    assert str(core_usage.measured()).startswith(
        "a run alone: workers: 2 with 1 CPU each (1.50 x 1 with 2); many runs: one run after the other (1.25 x)"
    )


def test_a_result_without_a_run_of_several_threads_recommends_nothing() -> None:
    _keep(threads=10, ranks=15, runs=12)
    path = latest_results_folder() / "scaling.json"
    path.write_text(
        path.read_text(encoding="utf-8").replace("1 rank, 2 threads", "1 rank, the others idle"), encoding="utf-8"
    )
    assert core_usage.measured() is None


def test_ranks_that_share_cores_are_passed_over() -> None:
    _keep(threads=10, ranks=15, runs=12)
    path = latest_results_folder() / "scaling.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    shared = {"name": "4 ranks", "rounds": {"4 ranks": [{"images/s": 9.0}], "4 ranks, not connected": []}}
    content["comparisons"].append(shared)
    path.write_text(json.dumps(content), encoding="utf-8")
    usage = core_usage.measured()
    assert usage is not None
    assert usage.cores == 2


@pytest.mark.parametrize("damaged", ["{", "[]", '{"comparisons": [{"name": "2 ranks"}]}'])
def test_a_damaged_result_recommends_nothing(damaged: str) -> None:
    _keep(threads=10, ranks=15, runs=12)
    (latest_results_folder() / "scaling.json").write_text(damaged, encoding="utf-8")
    assert core_usage.measured() is None
