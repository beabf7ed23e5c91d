"""The record of a run: what was written is read back, whatever crashed in between."""

from __future__ import annotations

import dataclasses
import json
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml

from bench.machine.computation import Computation
from bench.machine.revision import CodeDiff
from bench.records.event_log import RunBusyError
from bench.records.record import Record, RunFinishedError
from bench.records.refusals import write_refusal
from bench.records.states import events_from, is_held, read_events, read_state
from reproduce import schema
from reproduce.spec import RunConfig
from reproduce.training.graphs.switch import GraphUse

Begin = Callable[..., Record]


def test_a_run_that_has_not_begun_is_waiting(tmp_path: Path) -> None:
    state = read_state(tmp_path / "runs" / "k")
    assert (state.key, state.status, state.attempt, state.epoch) == ("k", "waiting", 0, None)


def test_a_finished_run_has_metrics_and_a_duration(tmp_path: Path, begun: Begin, config: RunConfig) -> None:
    record = begun(tmp_path)
    record.epoch(0, {schema.VAL_TOP1: 0.5})
    record.epoch(1, {schema.VAL_TOP1: 0.7})
    assert read_state(tmp_path).status == "running"
    record.end("finished", metrics={schema.FINAL_TOP1: 0.7})
    state = read_state(tmp_path)
    assert (state.status, state.attempt, state.epoch, state.epochs) == ("finished", 1, 1, 3)
    assert state.metrics[schema.VAL_TOP1] == state.metrics[schema.FINAL_TOP1] == 0.7
    assert state.metrics[schema.FINAL_DURATION_S] == pytest.approx(state.duration_s)
    assert RunConfig.model_validate(yaml.safe_load((tmp_path / "config.yaml").read_text(encoding="utf-8"))) == config
    with pytest.raises(RunFinishedError):
        begun(tmp_path)
    assert not is_held(tmp_path)


def test_values_that_are_not_finite_survive(tmp_path: Path, begun: Begin) -> None:
    record = begun(tmp_path)
    record.epoch(0, {"a": math.nan, "b": math.inf, "c": -math.inf})
    record.progress(epoch=0, epochs=3, step=1, steps=9, images_per_s=4.0, loss=math.nan, top1=None)
    metrics = read_events(tmp_path)[-1]["metrics"]
    assert math.isnan(metrics["a"])
    assert (metrics["b"], metrics["c"]) == (math.inf, -math.inf)
    assert '"NaN"' in (tmp_path / "events.jsonl").read_text(encoding="utf-8")
    progress = read_state(tmp_path).progress
    assert progress is not None
    assert math.isnan(progress["loss"])


def test_an_epoch_is_recorded_once_over_all_attempts(tmp_path: Path, begun: Begin) -> None:
    record = begun(tmp_path)
    record.epoch(0, {"a": 1.0})
    record.epoch(0, {"a": 2.0})
    record.end("interrupted")
    record = begun(tmp_path, resume={"epoch": 0, "step": 7})
    assert record.epochs_recorded == 1
    record.epoch(0, {"a": 3.0})
    record.epoch(1, {"a": 4.0})
    epochs = [event for event in read_events(tmp_path) if event["kind"] == schema.EPOCH]
    assert [(event["attempt"], event["epoch"], event["metrics"]["a"]) for event in epochs] == [(1, 0, 1.0), (2, 1, 4.0)]


def test_a_torn_line_is_skipped_and_closed_by_the_next_attempt(tmp_path: Path, begun: Begin) -> None:
    record = begun(tmp_path)
    record.epoch(0, {"a": 1.0})
    record.close()
    with open(tmp_path / "events.jsonl", "ab") as file:
        file.write(b'{"t": 1.0, "attempt": 1, "kind": "epo')
    *_, (_, offset) = events_from(tmp_path, 0)
    assert read_state(tmp_path).status == "interrupted"
    assert begun(tmp_path).attempt == 2
    assert [event["kind"] for event in read_events(tmp_path)] == ["start", "epoch", "start"]
    assert [event["kind"] for event, _ in events_from(tmp_path, offset)] == ["start"]


def test_the_next_attempt_removes_what_a_killed_one_had_not_written_to_the_end(tmp_path: Path, begun: Begin) -> None:
    begun(tmp_path).close()
    left = [tmp_path / ".checkpoint.pt.0123456789abcdef", tmp_path / ".checkpoint.pt.4711"]  # earlier versions' numbers
    for path in left:
        path.touch()
    (tmp_path / "checkpoint.pt").touch()
    begun(tmp_path).close()
    assert not any(path.exists() for path in left)
    assert (tmp_path / "checkpoint.pt").exists()


def test_a_run_has_one_writer_and_a_killed_writer_releases_it(tmp_path: Path, begun: Begin, config: RunConfig) -> None:
    script = (
        "import json, sys, time\n"
        "from pathlib import Path\n"
        "from bench.records.record import Record\n"
        "from reproduce.spec import RunConfig\n"
        "config = RunConfig.model_validate_json(sys.argv[2])\n"
        "Record(Path(sys.argv[1])).begin(config, environment={}, world_size=1, device='cpu')\n"
        "print('ready', flush=True)\n"
        "time.sleep(600)"
    )
    command = [sys.executable, "-c", script, str(tmp_path), config.model_dump_json()]
    writer = subprocess.Popen(command, stdout=subprocess.PIPE)
    try:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"ready\n"
        assert read_state(tmp_path).status == "running"
        with pytest.raises(RunBusyError):
            Record(tmp_path, lock_patience_s=0.1).abandon("killed")
    finally:
        writer.kill()
        writer.communicate()
    assert read_state(tmp_path).status == "interrupted"
    assert begun(tmp_path).attempt == 2


def test_a_run_whose_worker_died_is_recorded_as_failed(tmp_path: Path, begun: Begin) -> None:
    begun(tmp_path).close()
    Record(tmp_path).abandon("the worker died")
    state = read_state(tmp_path)
    assert (state.status, state.attempt, state.error) == ("failed", 1, "the worker died")


def test_an_attempt_whose_worker_was_stopped_is_recorded_as_interrupted(tmp_path: Path, begun: Begin) -> None:
    begun(tmp_path).close()
    Record(tmp_path).interrupt("terminated")
    state = read_state(tmp_path)
    assert (state.status, state.attempt, state.reason) == ("interrupted", 1, "terminated")
    Record(tmp_path).interrupt("again")
    assert read_state(tmp_path).reason == "terminated", "a recorded end stays"
    assert begun(tmp_path).attempt == 2


def test_a_run_that_never_began_stays_waiting_when_it_is_interrupted(tmp_path: Path) -> None:
    Record(tmp_path / "none").interrupt("terminated")
    assert not (tmp_path / "none").exists()


def test_a_failed_run_has_an_error(tmp_path: Path, begun: Begin) -> None:
    begun(tmp_path).end("failed", error="loss is nan at epoch 0, step 3")
    state = read_state(tmp_path)
    assert (state.status, state.error) == ("failed", "loss is nan at epoch 0, step 3")


def test_progress_tells_how_long_the_images_of_an_epoch_take(tmp_path: Path, begun: Begin) -> None:
    record = begun(tmp_path)
    record.progress(epoch=0, epochs=3, step=1, steps=9, images_per_s=4.0, loss=1.0, top1=None)
    progress = read_state(tmp_path).progress
    assert progress is not None
    assert progress["epoch_s"] == 9 * 8 / 4, "a batch has 8 images"


def test_progress_is_throttled(tmp_path: Path, begun: Begin) -> None:
    record = begun(tmp_path)
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


def test_predictions_name_the_classes_for_the_table_of_a_report(tmp_path: Path) -> None:
    from analysis.details.classes import read_names

    record = Record(tmp_path)
    table = {"label": np.array([0, 1]), "correct": np.array([True, False])}
    record.predictions(table)
    assert read_names(tmp_path / "predictions.parquet") == ()
    record.class_names = ("tench", "Grüße")
    record.predictions(table)
    assert read_names(tmp_path / "predictions.parquet") == ("tench", "Grüße")


def test_uncommitted_changes_are_kept_once_beside_the_record(tmp_path: Path, begun: Begin) -> None:
    diff = CodeDiff(b"--- a/bench/cli.py\n")
    begun(tmp_path, code_diff=diff).end("interrupted")
    begun(tmp_path, code_diff=diff).end("interrupted")
    begun(tmp_path, code_diff=CodeDiff(b"--- a/bench/other.py\n")).end("finished")
    kept = sorted(path.read_bytes() for path in tmp_path.glob("code-*.diff"))
    assert kept == [b"--- a/bench/cli.py\n", b"--- a/bench/other.py\n"]
    first, *_ = read_events(tmp_path)
    assert first["environment"]["code_diff"] == diff.name
    assert (tmp_path / diff.name).read_bytes() == diff.content


def test_damaged_checkpoints_that_were_passed_over_are_named_in_the_start_event(tmp_path: Path, begun: Begin) -> None:
    begun(tmp_path).end("interrupted")
    begun(tmp_path, damaged=["checkpoint.pt"]).end("interrupted")
    first, second = (event for event in read_events(tmp_path) if event["kind"] == "start")
    assert "damaged" not in first
    assert second["damaged"] == ["checkpoint.pt"]


def test_lines_lost_to_a_zeroed_block_are_skipped_and_their_epochs_recorded_again(tmp_path: Path, begun: Begin) -> None:
    record = begun(tmp_path)
    for epoch in range(3):
        record.epoch(epoch, {schema.VAL_TOP1: epoch / 10})
    record.close()
    lines = (tmp_path / "events.jsonl").read_bytes().splitlines(keepends=True)
    lines[0] = bytes(len(lines[0]))  # the start; without its line break, the first epoch is lost with it
    (tmp_path / "events.jsonl").write_bytes(b"".join(lines))
    assert read_state(tmp_path).status == "interrupted"
    record = begun(tmp_path)
    assert record.epochs_recorded == 0
    for epoch in range(record.epochs_recorded, 3):
        record.epoch(epoch, {schema.VAL_TOP1: epoch / 10})
    record.end("interrupted")
    epochs = [event for event in read_events(tmp_path) if event["kind"] == "epoch"]
    assert {event["epoch"]: event["metrics"][schema.VAL_TOP1] for event in epochs} == {0: 0.0, 1: 0.1, 2: 0.2}
    assert len(epochs) == 3


COMPUTATION = Computation(
    machine="amd avx2", code="c0de", decoder="native", kernels="torch", threads=1, compiled=False, torch="2.14"
)


def test_a_resume_records_what_is_computed_differently_and_a_fresh_start_does_not(tmp_path: Path, begun: Begin) -> None:
    elsewhere = dataclasses.replace(COMPUTATION, machine="intel amx_bf16", threads=2)
    begun(tmp_path, computation=COMPUTATION, resume=None).close()
    begun(tmp_path, computation=elsewhere, resume={"epoch": 0, "step": 3}).close()
    begun(tmp_path, computation=elsewhere, resume={"epoch": 0, "step": 5}).close()
    begun(tmp_path, computation=COMPUTATION, resume=None).close()
    begun(tmp_path, resume={"epoch": 1, "step": 0}).close()
    begun(tmp_path, computation=COMPUTATION, resume={"epoch": 1, "step": 0}).close()
    starts = read_events(tmp_path)
    assert starts[0]["computation"] == vars(COMPUTATION)
    assert [start["changes"] for start in starts] == [
        {},
        {"machine": ["amd avx2", "intel amx_bf16"], "threads": [1, 2]},
        *({}, {}, {}, {}),
    ]


def test_a_note_that_a_run_was_refused_lasts_until_the_next_attempt(tmp_path: Path, begun: Begin) -> None:
    begun(tmp_path).close()
    write_refusal(tmp_path, "its checkpoint comes from other code")
    assert read_state(tmp_path).refused == "its checkpoint comes from other code"
    assert read_state(tmp_path).status == "interrupted"
    begun(tmp_path).close()
    assert read_state(tmp_path).refused is None


def test_kernels_that_the_last_attempt_did_without_are_in_its_start_event(tmp_path: Path, begun: Begin) -> None:
    begun(tmp_path, kernels_dropped=["max pool: it disagrees"]).end("interrupted")
    assert read_state(tmp_path).kernels_dropped == ("max pool: it disagrees",)
    begun(tmp_path).end("interrupted")
    assert "kernels_dropped" not in read_events(tmp_path)[-2], "absent where there is nothing to say"
    assert read_state(tmp_path).kernels_dropped == ()


def test_whether_steps_replay_a_graph_is_recorded_when_it_is_known_and_when_it_changes(
    tmp_path: Path, begun: Begin
) -> None:
    record = begun(tmp_path)
    assert (read_state(tmp_path).graph, read_state(tmp_path).graph_reason) == (None, None)
    for use in (GraphUse(True, ""), GraphUse(True, ""), GraphUse(False, "out of memory at redis://:secret@h")):
        record.graph(use)
    graphs = [event for event in read_events(tmp_path) if event["kind"] == schema.GRAPH]
    assert [event["graph"] for event in graphs] == [True, False], "once for each side that says the same"
    assert graphs[0]["reason"] is None
    state = read_state(tmp_path)
    assert state.graph is False
    assert state.graph_reason is not None
    assert state.graph_reason.startswith("out of memory")
    assert "secret" not in state.graph_reason
    record.end("interrupted", reason="time limit")
    assert read_state(tmp_path).graph_reason == state.graph_reason
    begun(tmp_path).end("interrupted")
    assert read_state(tmp_path).graph is None, "of the last attempt"
