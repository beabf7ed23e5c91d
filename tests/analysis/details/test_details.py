"""Descriptions of arms, telemetry strips, times to a target, and Pareto fronts."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest

from analysis.details.arms import described_arms
from analysis.details.classes import NAMES, classes_table
from analysis.details.targets import times_to_target
from analysis.details.telemetry import read_strip
from analysis.frames import Recorded
from analysis.report.completeness import completeness, states
from analysis.report.figures.costs import on_front
from analysis.report.figures.style import dashes, marker
from bench.records.plan import RecordedPlan, read_plan
from bench.tracking.pages.notes import experiment_note
from reproduce import schema

RECORDS = Path(__file__).parents[3] / "results" / "ablation-imagenette" / "records"


def test_descriptions_are_read_from_the_note_that_the_publisher_writes() -> None:
    plan = RecordedPlan(hash="0", since=0, by="", entries=tuple(read_plan(RECORDS, "ablation-imagenette")))
    arms = {"reduced-none": {"description": "1x1 | no *heads*"}}
    note = experiment_note("x", [plan], {"description": "d", "arms": arms})
    assert described_arms(note) == {"reduced-none": "1x1 | no *heads*"}


def test_the_table_of_classes_has_the_names_that_the_predictions_hold() -> None:
    recorded: Any = SimpleNamespace(arms=["a"], finished=["run"])
    by_class = pd.DataFrame({"a": [0.5, 0.25]}, index=[0, 1])
    assert [row[0].text for row in classes_table(by_class, recorded).rows] == ["class 0", "class 1"]
    by_class.attrs[NAMES] = ("tench", "church")
    assert [row[0].text for row in classes_table(by_class, recorded).rows] == ["tench", "church"]


def test_a_strip_leaves_pauses_out_and_marks_shared_gpus(tmp_path: Path) -> None:
    gpu = {"device": "GPU-1", "busy_percent": 50.0, "share": 0.25, "processes": 4.0}
    host = {"device": "host", "cpu_percent": 90.0}
    rows = [{"t": t, "attempt": 1 if t < 1000 else 2, **device} for t in (0, 60, 9000, 9060) for device in (gpu, host)]
    pd.DataFrame(rows).to_parquet(tmp_path / "telemetry.parquet")
    strip = read_strip(tmp_path / "telemetry.parquet", name="a s0", arm="a")
    assert strip is not None
    assert (strip.on_gpu, strip.shared, strip.aside) == (True, True, "mean 50 %")
    assert strip.minutes.max() < 2.1
    assert strip.resumed == [pytest.approx(61 / 60)]


def recorded_with(losses: dict[str, list[float]], **columns: object) -> Recorded:
    runs = pd.DataFrame(
        {"run_id": list(losses), "arm": "a", "seed": range(len(losses)), "outcome": "finished", "error": None}
    ).assign(**{schema.FINAL_TOP1: 0.1}, **columns)
    epochs = pd.DataFrame(
        [
            {
                "run_id": run_id,
                "arm": "a",
                "epoch": epoch,
                schema.TRAIN_LOSS_MAIN: loss,
                schema.VAL_TOP1: epoch / 10,
                schema.EPOCH_SECONDS: 60.0,
            }
            for run_id, own in losses.items()
            for epoch, loss in enumerate(own)
        ]
    )
    return Recorded(experiment="x", experiment_id="1", description="", runs=runs, epochs=epochs)


def test_a_run_that_diverged_is_not_called_finished() -> None:
    recorded = recorded_with({"good": [2.0, 1.0], "worse": [2.0, 2.5], "infinite": [2.0, math.inf], "failed": [2.0]})
    recorded.runs.loc[3, ["outcome", "error"]] = ["failed", "NonFiniteLossError: loss is not finite in epoch 2"]
    assert states(recorded) == ["finished", "diverged", "diverged", "diverged"]
    cells = completeness(recorded).rows[0][1]
    assert [cell.state for cell in cells] == states(recorded)


def test_many_runs_are_counted_in_the_grid() -> None:
    grid = completeness(recorded_with({f"r{i}": [2.0, 1.0] for i in range(60)}))
    assert (list(grid.columns), [cell.text for cell in grid.rows[0][1]]) == (["✓ finished"], ["60"])


def test_a_run_that_never_reaches_the_target_is_censored() -> None:
    times = times_to_target(recorded_with({"short": [1.0, 1.0], "long": [1.0] * 5}), 0.3).set_index("run_id")
    assert times["reached"].to_dict() == {"short": False, "long": True}
    assert times["seconds"].to_dict() == {"short": 120, "long": 240}


def test_the_pareto_front_has_what_no_other_point_beats() -> None:
    assert on_front([1, 2, 2, 3], [0.5, 0.7, 0.6, 0.7]) == [True, True, False, False]
    assert on_front([1, 2, 3], [0.7, 0.6, 0.65], more_is_better=True) == [True, False, True]


def test_sixty_four_arms_can_be_told_apart() -> None:
    assert len({(i % 8, marker(i)) for i in range(64)}) == 64
    assert len({(i % 8, dashes(i)) for i in range(32)}) == 32
