"""The record of a run: what is written is read back, whatever crashed in between."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from bench.records.record import Record, RunBusy, RunFinished, experiments, read_plan, write_plan
from bench.records.states import events_from, is_held, read_events, read_state, run_folder
from reproduce import schema
from reproduce.spec import DataConfig, NetworkConfig, PlannedRun, RecipeConfig, RunConfig, Seeds


def config(seed: int = 0) -> RunConfig:
    return RunConfig(
        data=DataConfig(path="tiny"),
        data_hash="abc",
        network=NetworkConfig(classes=10, resolution=64),
        recipe=RecipeConfig(epochs=3, batch_size=8, learning_rate=0.1),
        seeds=Seeds.of(seed),
        workers=1,
    )


def begin(folder: Path, resume: dict[str, int] | None = None) -> Record:
    record = Record(folder)
    record.begin(config(), environment={"machine": {"hostname": "h"}}, world_size=1, device="cpu", resume=resume)
    return record


def test_a_run_that_has_not_begun_is_waiting(tmp_path: Path) -> None:
    state = read_state(tmp_path / "runs" / "k")
    assert (state.key, state.status, state.attempt, state.epoch) == ("k", "waiting", 0, None)


def test_a_finished_run_tells_its_metrics_and_duration(tmp_path: Path) -> None:
    record = begin(tmp_path)
    record.epoch(0, {schema.VAL_TOP1: 0.5})
    record.epoch(1, {schema.VAL_TOP1: 0.7})
    assert read_state(tmp_path).status == "running"
    record.end("finished", metrics={schema.FINAL_TOP1: 0.7})
    state = read_state(tmp_path)
    assert (state.status, state.attempt, state.epoch, state.epochs) == ("finished", 1, 1, 3)
    assert state.metrics[schema.VAL_TOP1] == state.metrics[schema.FINAL_TOP1] == 0.7
    assert state.metrics[schema.FINAL_DURATION_S] == pytest.approx(state.duration_s)
    assert RunConfig.model_validate(yaml.safe_load((tmp_path / "config.yaml").read_text(encoding="utf-8"))) == config()
    with pytest.raises(RunFinished):
        begin(tmp_path)
    assert not is_held(tmp_path)


def test_values_that_are_not_finite_survive(tmp_path: Path) -> None:
    record = begin(tmp_path)
    record.epoch(0, {"a": math.nan, "b": math.inf, "c": -math.inf})
    record.progress(epoch=0, epochs=3, step=1, steps=9, images_per_s=4.0, loss=math.nan, top1=None)
    metrics = read_events(tmp_path)[-1]["metrics"]
    assert math.isnan(metrics["a"])
    assert (metrics["b"], metrics["c"]) == (math.inf, -math.inf)
    assert '"NaN"' in (tmp_path / "events.jsonl").read_text(encoding="utf-8")
    progress = read_state(tmp_path).progress
    assert progress is not None
    assert math.isnan(progress["loss"])


def test_an_epoch_is_recorded_once_over_all_attempts(tmp_path: Path) -> None:
    record = begin(tmp_path)
    record.epoch(0, {"a": 1.0})
    record.epoch(0, {"a": 2.0})
    record.end("interrupted")
    record = begin(tmp_path, resume={"epoch": 0, "step": 7})
    assert record.epochs_recorded == 1
    record.epoch(0, {"a": 3.0})
    record.epoch(1, {"a": 4.0})
    epochs = [event for event in read_events(tmp_path) if event["kind"] == schema.EPOCH]
    assert [(event["attempt"], event["epoch"], event["metrics"]["a"]) for event in epochs] == [(1, 0, 1.0), (2, 1, 4.0)]


def test_a_torn_line_is_left_for_later_and_closed_by_the_next_attempt(tmp_path: Path) -> None:
    record = begin(tmp_path)
    record.epoch(0, {"a": 1.0})
    record.close()
    with open(tmp_path / "events.jsonl", "ab") as file:
        file.write(b'{"t": 1.0, "attempt": 1, "kind": "epo')
    *_, (_, offset) = events_from(tmp_path, 0)
    assert read_state(tmp_path).status == "interrupted"
    assert begin(tmp_path).attempt == 2
    assert [event["kind"] for event in read_events(tmp_path)] == ["start", "epoch", "start"]
    assert [event["kind"] for event, _ in events_from(tmp_path, offset)] == ["start"]


def test_a_run_has_one_writer_and_a_killed_writer_frees_it(tmp_path: Path) -> None:
    script = (
        "import sys, time; from pathlib import Path; sys.path.insert(0, 'tests/bench/records')\n"
        "from test_records import begin\n"
        "record = begin(Path(sys.argv[1])); print('ready', flush=True); time.sleep(60)"
    )
    writer = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)],
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[3],
        env={**os.environ, "PYTHONPATH": "."},
    )
    try:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"ready\n"
        assert read_state(tmp_path).status == "running"
        with pytest.raises(RunBusy):
            Record(tmp_path, lock_patience_s=0.1).abandon("killed")
    finally:
        writer.kill()
        writer.communicate()
    assert read_state(tmp_path).status == "interrupted"
    assert begin(tmp_path).attempt == 2


def test_a_run_whose_worker_died_is_ended_by_another(tmp_path: Path) -> None:
    begin(tmp_path).close()
    Record(tmp_path).abandon("the worker died")
    state = read_state(tmp_path)
    assert (state.status, state.attempt, state.error) == ("failed", 1, "the worker died")


def test_an_attempt_stopped_before_it_could_say_so_is_ended_as_interrupted_by_another(tmp_path: Path) -> None:
    begin(tmp_path).close()
    Record(tmp_path).interrupt("terminated")
    state = read_state(tmp_path)
    assert (state.status, state.attempt, state.reason) == ("interrupted", 1, "terminated")
    Record(tmp_path).interrupt("again")
    assert read_state(tmp_path).reason == "terminated", "an end that is there stays"
    assert begin(tmp_path).attempt == 2


def test_a_run_that_never_began_stays_waiting_when_it_is_interrupted(tmp_path: Path) -> None:
    Record(tmp_path / "none").interrupt("terminated")
    assert not (tmp_path / "none").exists()


def test_a_failed_run_tells_why(tmp_path: Path) -> None:
    begin(tmp_path).end("failed", error="loss is nan at epoch 0, step 3")
    state = read_state(tmp_path)
    assert (state.status, state.error) == ("failed", "loss is nan at epoch 0, step 3")


def test_progress_is_throttled(tmp_path: Path) -> None:
    record = begin(tmp_path)
    for step in range(5):
        record.progress(epoch=0, epochs=3, step=step, steps=9, images_per_s=4.0, loss=1.0, top1=0.5)
    assert json.loads((tmp_path / "progress.json").read_text(encoding="utf-8"))["step"] == 0


def test_predictions_keep_their_columns(tmp_path: Path) -> None:
    import pandas as pd

    top5 = np.arange(10).reshape(2, 5)
    table = {"index": np.arange(2), "label": np.array([0, 9]), "top5": top5, "correct": np.array([True, False])}
    Record(tmp_path).predictions(table)
    frame = pd.read_parquet(tmp_path / "predictions.parquet")
    assert list(frame.columns) == list(table)
    assert np.array_equal(np.stack(frame["top5"].to_list()), top5)


def test_a_plan_is_read_back(tmp_path: Path) -> None:
    run = PlannedRun(experiment="e", arm="full", seed=0, config=config())
    write_plan(tmp_path, "e", [run], {run.key: {schema.COST_PARAMETERS: 7.0}})
    (entry,) = read_plan(tmp_path, "e")
    assert (entry.key, entry.name, entry.costs) == (run.key, "full s0", {schema.COST_PARAMETERS: 7.0})
    assert experiments(tmp_path) == ["e"]
    assert run_folder(tmp_path, run.key).name == run.key
