"""What is printed and written at the end of a suite."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from bench.suites.harness.comparison import Comparison, Goal
from bench.suites.harness.printing import print_comparison
from bench.suites.harness.reporting import ResultOutput, report_comparisons

SPEED, MEMORY = "images/s", "peak memory, GiB"
BASELINE = "torchvision, channels_last, autocast, compiled"
REPETITIONS = {"ours": [{SPEED: 20.0}, {SPEED: 30.0}, {SPEED: 28.0}], BASELINE: [{SPEED: 10.0}] * 3}


def comparison(**fields: Any) -> Comparison:
    return Comparison(**{"name": "224", "title": "Ours and a baseline", "repetitions": REPETITIONS} | fields)


def goal(**bounds: float) -> Goal:
    return Goal(metric=SPEED, ours="ours", baseline=BASELINE, **bounds)  # type: ignore[arg-type]


def test_a_missed_goal_is_reported_and_the_result_is_still_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = ResultOutput(file=tmp_path / "bench" / "result.json")
    absent = {"third": "not installed: pip install third"}
    measured = comparison(goals=(goal(at_least=3.5),), absent=absent, once={"ours": {MEMORY: 0.25}})
    assert report_comparisons("loader", [measured], setting={"batch": 16}, output=output) == 1
    printed = capsys.readouterr().out
    assert "2.80 (2.00 to 3.00)" in printed
    assert "at least 3.5: 2.8, missed" in printed
    assert "third: did not take part: not installed" in printed
    assert output.file is not None
    result = json.loads(output.file.read_text(encoding="utf-8"))
    (written,) = result["comparisons"]
    assert written["rounds"] == REPETITIONS
    assert written["goals"][0]["at_least"] == 3.5
    assert result["suite"] == "loader"
    assert "packages" in result["environment"]


def test_the_exit_code_is_0_only_if_every_goal_is_reached() -> None:
    assert report_comparisons("x", [comparison(goals=(goal(at_least=2.0), goal(at_most=2.8)))], setting={}) == 0
    assert report_comparisons("x", [comparison(goals=(goal(at_least=2.0), goal(at_most=2.5)))], setting={}) == 1


def test_json_goes_to_standard_output_and_tables_to_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    report_comparisons("step", [comparison()], setting={}, output=ResultOutput(json=True))
    printed = capsys.readouterr()
    assert json.loads(printed.out)["comparisons"][0]["name"] == "224"
    assert "interleaved repetitions" in printed.err


@pytest.mark.parametrize("width", [20, 40, 80, 200])
def test_no_name_and_no_number_is_cut_at_any_width(width: int, capsys: pytest.CaptureFixture[str]) -> None:
    once = {BASELINE: {"start to first batch, s": 1.234, MEMORY: 0.5678, "KiB an image": 123.4}}
    print_comparison(comparison(once=once, goals=(goal(at_least=2),)), Console(width=width))
    printed = capsys.readouterr().out
    assert "…" not in printed
    for text in [*BASELINE.split(), "2.80 (2.00 to 3.00)", "1.234", "0.5678", "123.4"]:
        assert text in printed
