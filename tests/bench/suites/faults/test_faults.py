"""The campaign of faults: moments, what is compared, what is kept and shown, and one real trial."""

from __future__ import annotations

import json
import os
import random
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from bench.records.plan import write_plan
from bench.records.record import Record
from bench.records.states import run_folder
from bench.suites.faults.comparison import compare_with_store, first_difference
from bench.suites.faults.files import (
    CLOCK_BACK_S,
    adjustable_clock,
    damage,
    kill_and_damage_checkpoint,
    no_compiler,
    set_clock_back,
)
from bench.suites.faults.job import EPOCHS, STEPS, FaultJob
from bench.suites.faults.kind import MissedMomentError, Series, Trial, TrialResult
from bench.suites.faults.registry import KINDS
from bench.suites.faults.results import TrialStore, render
from bench.suites.faults.tracking import make_store_read_only, make_store_writable, no_immutable_files
from bench.suites.faults.trials import Due, PositionWatch
from reproduce import schema
from reproduce.errors import UserError
from reproduce.spec import PlannedRun

RESULT = TrialResult(
    moment=1,
    seconds=1.5,
    position=3,
    code=75,
    commands=1,
    recovery_s=8.0,
    wasted_steps=0,
    bit_equal=True,
    metrics_lost=0,
    metrics_twice=0,
    processes_left=0,
    duration_s=30.0,
    load=2.5,
    machine="amd-avx2",
    commit="c0ffee",
    date="2026-11-27",
)


def _trial(folder: Path, key: str = "key") -> Trial:
    return Trial(Series(FaultJob("name", folder, folder, (1,))), key, 1)


def test_every_kind_has_a_name_of_its_own_and_a_promise_in_a_sentence() -> None:
    names = [kind.name for kind in KINDS]
    assert len(set(names)) == len(names) >= 15
    assert all(kind.promise.endswith(".") and kind.codes for kind in KINDS)


def test_moments_are_told_in_steps_where_a_run_has_them_and_in_seconds_elsewhere() -> None:
    assert Due.at(0.25, "run", 40.0) == Due(seconds=10.0)
    assert [Due.at(share, "steps", 40.0).steps for share in (0.0, 0.5, 0.99)] == [0, EPOCHS * STEPS // 2, 23]
    assert [Due.at(share, "checkpoints", 40.0).steps for share in (0.0, 0.5, 0.99)] == [STEPS, STEPS + 9, 23]


@pytest.mark.parametrize("due", [Due(seconds=60.0), Due(steps=1)])
def test_a_command_that_ends_before_its_fault_is_due_is_missed(tmp_path: Path, due: Due) -> None:
    trial = _trial(tmp_path)
    with subprocess.Popen(["true"]) as trial.series.driver, pytest.raises(MissedMomentError):
        due.wait(trial, began=time.monotonic())


def test_a_run_that_finishes_before_its_fault_is_due_is_missed(
    tmp_path: Path, planned: Callable[..., PlannedRun]
) -> None:
    run = planned(0)
    trial = _trial(tmp_path, run.key)
    _finished(trial.job.records, run, loss=0.5, weight=1.0)
    with subprocess.Popen(["sleep", "60"]) as trial.series.driver:
        with pytest.raises(MissedMomentError):
            Due(seconds=60.0).wait(trial, began=time.monotonic())
        trial.series.driver.kill()


def test_a_run_that_had_finished_before_it_was_killed_is_missed(
    tmp_path: Path, planned: Callable[..., PlannedRun]
) -> None:
    run = planned(0)
    trial = _trial(tmp_path, run.key)
    _finished(trial.job.records, run, loss=0.5, weight=1.0)
    with (
        subprocess.Popen(["sleep", "60"]) as trial.series.driver,
        pytest.raises(MissedMomentError, match="had finished"),
    ):
        kill_and_damage_checkpoint(trial, "flip")
    assert first_difference(trial.run, trial.run) is None, "its checkpoint is whole"


@pytest.mark.parametrize("how", ["flip", "zero", "truncate"])
def test_damage_changes_a_file(tmp_path: Path, how: str) -> None:
    content = random.Random(1).randbytes(10_000)
    for seed in range(20):
        path = tmp_path / "file"
        path.write_bytes(content)
        damage(path, how, random.Random(seed))
        damaged = path.read_bytes()
        assert damaged != content
        assert (len(damaged) < len(content)) == (how == "truncate")


@pytest.mark.skipif(no_compiler() is not None, reason="the clock's library needs a C compiler")
def test_a_clock_that_is_set_back_shows_in_a_running_process_and_leaves_its_sleeps_alone(tmp_path: Path) -> None:
    trial = _trial(tmp_path)
    code = """
import threading, time
print(time.time(), flush=True)
input()
start = time.monotonic()
time.sleep(0.2)
with (condition := threading.Condition()):
    condition.wait(0.2)
print(time.time(), time.monotonic() - start)
"""
    with (
        adjustable_clock(trial.series),
        subprocess.Popen(
            [sys.executable, "-c", code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **trial.series.environment},
            text=True,
        ) as process,
    ):
        assert process.stdin is not None
        assert process.stdout is not None
        before = float(process.stdout.readline())
        set_clock_back(trial)
        process.stdin.write("\n")
        process.stdin.flush()
        after, waited_s = map(float, process.stdout.readline().split())
    assert abs(before - time.time()) < 60
    assert after - before == pytest.approx(CLOCK_BACK_S, abs=60)
    assert 0.4 <= waited_s < 10


@pytest.mark.skipif(no_immutable_files() is not None, reason="files cannot be made immutable here")
def test_a_read_only_store_refuses_a_connection_that_was_open_and_a_fault_that_kept_nothing_back_is_none(
    tmp_path: Path,
) -> None:
    trial = _trial(tmp_path)
    trial.job.records.mkdir()
    connection = sqlite3.connect(trial.series.tracking_store, isolation_level=None)
    connection.execute("PRAGMA journal_mode = wal")
    connection.execute("CREATE TABLE kept (value)")
    make_store_read_only(trial)
    with pytest.raises(sqlite3.OperationalError):
        connection.execute("INSERT INTO kept VALUES (1)")
    with pytest.raises(AssertionError, match="lacked nothing"):
        make_store_writable(trial)
    connection.execute("INSERT INTO kept VALUES (2)")
    assert connection.execute("SELECT value FROM kept").fetchall() == [(2,)]
    connection.close()


def test_a_command_that_ends_before_there_is_a_target_is_missed(tmp_path: Path) -> None:
    trial = _trial(tmp_path)
    with subprocess.Popen(["true"]) as trial.series.driver, pytest.raises(MissedMomentError):
        trial.wait_for(lambda: None)


def test_steps_that_are_trained_again_and_the_time_to_get_further_are_measured(
    tmp_path: Path, planned: Callable[..., PlannedRun]
) -> None:
    run = planned(0)
    folder = run_folder(tmp_path / "records", run.key)

    with PositionWatch(_trial(tmp_path, run.key)) as watch:
        first = _attempt(folder, run, None)
        _note_step(first, 1, 5)
        _until(lambda: watch.furthest == STEPS + 5)
        watch.fault(STEPS + 5)
        first.close()
        second = _attempt(folder, run, {"epoch": 1, "step": 0})
        _note_step(second, 1, 5)
        _until(lambda: watch.wasted_steps == 5)
        assert watch.recovery_s is None, "it has only caught up"
        _note_step(second, 1, 6)
        _until(lambda: watch.recovery_s is not None)
        second.close()
    assert watch.wasted_steps == 5


def test_the_step_that_ranks_finish_after_their_driver_was_killed_is_no_recovery(
    tmp_path: Path, planned: Callable[..., PlannedRun]
) -> None:
    run = planned(0)
    folder = run_folder(tmp_path / "records", run.key)
    with PositionWatch(_trial(tmp_path, run.key)) as watch:
        first = _attempt(folder, run, None)
        _note_step(first, 0, 5)
        _until(lambda: watch.furthest == 5)
        watch.fault(5)
        _note_step(first, 0, 6)
        _until(lambda: watch.furthest == 6)
        first.close()
        second = _attempt(folder, run, None)
        _note_step(second, 0, 6)
        _until(lambda: watch.wasted_steps == 6)
        assert watch.recovery_s is None, "it has only caught up"
        _note_step(second, 0, 7)
        _until(lambda: watch.recovery_s is not None)
        second.close()


def test_a_run_that_had_done_its_last_step_recovers_by_finishing(
    tmp_path: Path, planned: Callable[..., PlannedRun]
) -> None:
    run = planned(0)
    trial = _trial(tmp_path, run.key)
    with PositionWatch(trial) as watch:
        watch.fault(STEPS)
        _finished(trial.job.records, run, loss=0.5, weight=1.0)
        _until(lambda: watch.recovery_s is not None)


def test_one_bit_of_the_curve_or_the_weights_is_a_difference(
    tmp_path: Path, planned: Callable[..., PlannedRun]
) -> None:
    one = _finished(tmp_path / "one", planned(0), loss=0.5, weight=1.0)
    assert first_difference(one, _finished(tmp_path / "same", planned(0), loss=0.5, weight=1.0)) is None
    other = _finished(tmp_path / "loss", planned(0), loss=0.5000000000000001, weight=1.0)
    assert first_difference(one, other) == "epochs"
    other = _finished(tmp_path / "weight", planned(0), loss=0.5, weight=1.0000001)
    assert first_difference(one, other) == "weights of fc"


def test_metrics_that_the_store_lacks_or_holds_twice_are_counted(
    tmp_path: Path, planned: Callable[..., PlannedRun], store: Path
) -> None:
    from bench.tracking.location import tracking_uri
    from bench.tracking.publishing import Publisher

    shutil.copy(store, tmp_path / "mlflow.db")
    run = planned(0)
    write_plan(tmp_path, "first", [run], {})
    folder = _finished(tmp_path, run, loss=0.5, weight=1.0)
    assert compare_with_store(folder, tmp_path / "nowhere.db", run.key).lost == 2 + 2
    Publisher(tmp_path, tracking_uri(tmp_path)).publish()
    assert compare_with_store(folder, tmp_path / "mlflow.db", run.key) == (0, 0)
    with sqlite3.connect(tmp_path / "mlflow.db") as connection:
        connection.execute("DELETE FROM metrics WHERE key = ?", (schema.VAL_TOP1,))
        connection.execute(
            "INSERT INTO metrics SELECT key, value, timestamp + 1, run_uuid, step, is_nan FROM metrics WHERE key = ?",
            (schema.TRAIN_LOSS,),
        )
    assert compare_with_store(folder, tmp_path / "mlflow.db", run.key) == (1, 1)


def test_results_are_kept_by_moment_and_broken_promises_are_listed(tmp_path: Path) -> None:
    results, kind = TrialStore(tmp_path / "results"), KINDS[0]
    assert results.read(kind.name) == []
    results.add(kind.name, RESULT.model_copy(update={"moment": 2, "broken": ("the result differs: epochs",)}))
    results.add(kind.name, RESULT)
    results.add(kind.name, RESULT)
    trials = results.read(kind.name)
    assert [trial.moment for trial in trials] == [1, 2]
    shown = render([(kind, trials, None), (KINDS[1], [], "it takes root")])
    assert f"- {kind.name}, moment 2: the result differs: epochs" in shown
    assert f"- {KINDS[1].name}: it takes root" in shown


def test_the_load_beside_trials_and_their_machines_are_shown() -> None:
    trials = [RESULT.model_copy(update={"load": load}) for load in (2.5, 6.0, 3.0)]
    trials.append(RESULT.model_copy(update={"machine": "intel-amx-bf16"}))
    assert "| 8.0, 8.0 | 0 | 2.8 | amd-avx2 (3), intel-amx-bf16 (1) |" in render([(KINDS[0], trials, None)])


def test_a_file_that_holds_no_results_is_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / f"{KINDS[0].name}.json"
    path.write_text("[]", encoding="utf-8")
    with pytest.raises(UserError, match="holds no results"):
        TrialStore(tmp_path).add(KINDS[0].name, RESULT)
    assert path.read_text(encoding="utf-8") == "[]"


@pytest.mark.long
@pytest.mark.parametrize(("kind", "code"), [("driver-terminated", 75), ("server-down", 0)])
def test_real_trials_keep_their_promises(tmp_path: Path, kind: str, code: int) -> None:
    command = [sys.executable, "-m", "bench.cli", "bench", "faults", "--moments", "2", "--kind", kind]
    done = subprocess.run(
        [*command, "--output", str(tmp_path)], capture_output=True, text=True, encoding="utf-8", check=False
    )
    assert done.returncode == 0, done.stderr
    trials = json.loads((tmp_path / f"{kind}.json").read_text(encoding="utf-8"))["trials"]
    assert [(trial["moment"], trial["bit_equal"], trial["metrics_lost"]) for trial in trials] == [
        (1, True, 0),
        (2, True, 0),
    ]
    assert code in [trial["code"] for trial in trials]


def _until(reached: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not reached():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def _attempt(folder: Path, run: PlannedRun, resume: dict[str, int] | None) -> Record:
    record = Record(folder, progress_every_s=0)
    record.begin(run.config, environment={}, world_size=1, device="cpu", resume=resume)
    return record


def _note_step(record: Record, epoch: int, step: int) -> None:
    record.progress(epoch=epoch, epochs=3, step=step, steps=STEPS, images_per_s=1, loss=1, top1=None)


def _finished(records: Path, run: PlannedRun, *, loss: float, weight: float) -> Path:
    import numpy as np

    folder = run_folder(records, run.key)
    record = Record(folder)
    record.begin(run.config, environment={}, world_size=1, device="cpu")
    rank_times = {f"{schema.RANK}{rank}/{schema.RANK_FORWARD_MS}": 1.0 for rank in (0, 1)}  # not sent to MLflow
    record.epoch(0, {schema.TRAIN_LOSS: loss, schema.VAL_TOP1: 0.25, **rank_times})
    torch.save({"network": {"fc": torch.tensor([weight])}}, folder / "checkpoint.pt")
    record.predictions(
        {
            "index": np.arange(2),
            "label": np.arange(2),
            "top5": np.zeros((2, 5), dtype=np.int64),
            "correct": np.ones(2, dtype=bool),
        }
    )
    record.end("finished", metrics={schema.FINAL_TOP1: 0.25})
    return folder
