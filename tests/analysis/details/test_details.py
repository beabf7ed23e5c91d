"""Descriptions of arms, telemetry strips, times to a target, and Pareto fronts."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from analysis.details.arms import described_arms
from analysis.details.artifacts import fetched
from analysis.details.budgets import budgets_table
from analysis.details.targets import chosen_target, targets_table, times_to_target
from analysis.details.telemetry import read_strip
from analysis.frames import Recorded
from analysis.report.completeness import completeness, states
from analysis.report.figures.costs import on_front
from analysis.report.figures.style import dashes, marker
from analysis.settings import Settings
from bench.records.plan import RecordedPlan, read_plan
from bench.tracking.pages.notes import experiment_note
from reproduce import schema

RECORDS = Path(__file__).parents[3] / "results" / "ablation-imagenette" / "records"


def test_descriptions_are_read_from_the_note_that_the_publisher_writes() -> None:
    plan = RecordedPlan(hash="0", since=0, by="", entries=tuple(read_plan(RECORDS, "ablation-imagenette")))
    arms = {"reduced-none": {"description": "1x1 | no *heads*"}}
    note = experiment_note("x", [plan], {"description": "d", "arms": arms})
    assert described_arms(note) == {"reduced-none": "1x1 | no *heads*"}


def test_a_note_says_where_arms_share_colours_in_the_dashboard() -> None:
    (entry, *_) = read_plan(RECORDS, "ablation-imagenette")
    plans = [
        RecordedPlan(hash="0", since=0, by="", entries=tuple(replace(entry, arm=f"arm{i}") for i in range(count)))
        for count in (18, 19)
    ]
    few, many = (experiment_note("x", [plan], {}) for plan in plans)
    assert "share" not in few
    assert "The 19 arms share 18 colours: charts tell arms of one colour apart by name" in many


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


def test_the_experiment_names_the_target() -> None:
    recorded = recorded_with({"a": [1.0, 1.0]})
    assert chosen_target(recorded, "a") == pytest.approx(0.09)
    assert chosen_target(replace(recorded, settings=Settings(target=0.3)), "a") == 0.3


def test_times_are_medians_with_censored_runs_and_tested_against_the_baseline() -> None:
    runs = {f"{arm}{i}": [1.0] * (3 if arm == "short" else 6) for arm in ("base", "fast", "short") for i in range(4)}
    recorded = recorded_with(runs)
    for frame in (recorded.runs, recorded.epochs):
        frame["arm"] = frame["run_id"].str[:-1]
    fast = recorded.epochs["arm"].eq("fast")
    recorded.epochs.loc[fast, schema.VAL_TOP1] = 2 * recorded.epochs.loc[fast, schema.VAL_TOP1]
    table = targets_table(times_to_target(recorded, 0.4), recorded, 0.4, "base")
    assert [[cell.text for cell in row] for row in table.rows] == [
        ["base", "4 of 4", "5", "5.0 min", "—"],
        ["fast", "4 of 4", "3", "3.0 min", "0.057"],
        ["short", "0 of 4", "—", "—", "1.00"],
    ]


def test_arms_are_compared_at_the_cost_of_the_cheapest_run() -> None:
    costs = {schema.COST_MACS_TRAINING: [100.0, 200.0]}
    recorded = recorded_with({"cheap": [1.0] * 4, "dear": [1.0] * 4}, **costs)
    for frame in (recorded.runs, recorded.epochs):
        frame["arm"] = frame["run_id"]
    recorded.epochs[schema.IMAGES_PER_S], recorded.epochs[schema.TRAIN_SECONDS] = 10.0, 50.0
    table = budgets_table(recorded)
    assert list(table.columns) == ["Arm", "Top-1, %, after 200 k multiply-adds", "Top-1, %, after 4.0 min"]
    assert [[cell.text for cell in row] for row in table.rows] == [
        ["cheap", "30.00", "30.00"],
        ["dear", "10.00", "30.00"],
    ]
    recorded.epochs[schema.RESOLUTION] = [1.0, 1.0, 2.0, 2.0] * 2
    assert list(budgets_table(recorded).columns) == ["Arm", "Top-1, %, after 4.0 min"]
    recorded.runs["outcome"] = schema.FAILED
    assert budgets_table(recorded).rows == []


def test_an_artifact_on_this_machine_is_read_in_its_place_without_mlflow(tmp_path: Path) -> None:
    file = tmp_path / "a b" / "x.parquet"
    file.parent.mkdir()
    file.touch()
    folders = {"there": file.parent.as_uri(), "empty": tmp_path.as_uri()}
    with fetched("x.parquet", folders, "http://127.0.0.1:9") as files:
        assert files == {"there": file}


def test_the_pareto_front_has_what_no_other_point_beats() -> None:
    assert on_front([1, 2, 2, 3], [0.5, 0.7, 0.6, 0.7]) == [True, True, False, False]
    assert on_front([1, 2, 3], [0.7, 0.6, 0.65], more_is_better=True) == [True, False, True]


def test_sixty_four_arms_can_be_told_apart() -> None:
    assert len({(i % 8, marker(i)) for i in range(64)}) == 64
    assert len({(i % 8, dashes(i)) for i in range(32)}) == 32
