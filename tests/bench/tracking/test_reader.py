"""What a tracking store does not hold yet, read from the records. No store is needed."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from bench.records.plan import write_plan
from bench.records.record import Record
from bench.records.states import run_folder
from bench.tracking import reader
from bench.tracking.cursors import Cursor, ExperimentCursors
from bench.tracking.reader import STALE_S, pending, read_evaluation_news, read_killed_run, read_run_news
from reproduce.spec import PlannedRun

Planned = Callable[..., PlannedRun]
Begin = Callable[[Path, PlannedRun], Record]

AWAY = "http://127.0.0.1:1"


def test_reading_goes_on_from_the_end_of_the_last_chunk(tmp_path: Path, planned: Planned, begin: Begin) -> None:
    record = begin(tmp_path, planned(0))
    record.epoch(0, {"a": 1.0})
    folder = run_folder(tmp_path, planned(0).key)
    (first,) = read_run_news(folder, 0)
    assert [event["kind"] for event in first.events] == ["start", "epoch"]
    assert first.config is not None
    assert first.state is not None
    assert [path.name for path in first.artifacts] == ["config.yaml", "environment.json", "events.jsonl"]
    assert list(read_run_news(folder, first.end)) == []
    record.epoch(1, {"a": 2.0})
    (second,) = read_run_news(folder, first.end)
    assert [event["epoch"] for event in second.events] == [1]
    assert (second.config, second.state) == (None, None)


def test_long_news_come_in_chunks(
    tmp_path: Path, planned: Planned, begin: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader, "METRICS_PER_CHUNK", 2)
    record = begin(tmp_path, planned(0))
    for epoch in range(3):
        record.epoch(epoch, {"a": 1.0})
    chunks = list(read_run_news(run_folder(tmp_path, planned(0).key), 0))
    assert [[event["kind"] for event in chunk.events] for chunk in chunks] == [["start", "epoch", "epoch"], ["epoch"]]


def test_a_run_without_events_has_no_news(tmp_path: Path) -> None:
    assert list(read_run_news(tmp_path / "runs" / "none", 0)) == []


def test_a_run_counts_as_killed_once_nobody_holds_it_and_it_was_silent(
    tmp_path: Path, planned: Planned, begin: Begin
) -> None:
    record = begin(tmp_path, planned(0))
    folder = run_folder(tmp_path, planned(0).key)
    assert read_killed_run(folder, final=True) is None
    record.close()
    assert read_killed_run(folder, final=False) is None
    killed = read_killed_run(folder, final=True)
    assert killed is not None
    assert killed.state.status == "interrupted"
    last_seen = time.time() - STALE_S - 60
    os.utime(folder / "events.jsonl", (last_seen, last_seen))
    killed = read_killed_run(folder, final=False)
    assert killed is not None
    assert killed.last_seen == pytest.approx(last_seen, abs=0.01)


def test_an_evaluation_is_news_for_experiments_that_plan_its_runs_until_it_is_marked(tmp_path: Path) -> None:
    folder = tmp_path / "evaluations" / "abc"
    folder.mkdir(parents=True)
    models = [{"run": "mine"}, {"run": "another's"}, {"sha256": "weights"}]
    (folder / "evaluation.json").write_text(json.dumps({"models": models}), encoding="utf-8")
    cursors = ExperimentCursors(tmp_path, AWAY, "first")
    cursors.write_experiment_id("1")
    (news,) = read_evaluation_news(tmp_path, ["mine", "third"], cursors)
    assert (news.name, news.runs) == ("abc", ("mine",))
    assert read_evaluation_news(tmp_path, ["third"], cursors) == []
    cursors.mark_evaluation("abc")
    assert read_evaluation_news(tmp_path, ["mine"], cursors) == []


def test_runs_are_pending_until_their_cursor_reaches_the_end(one_run: Path, planned: Planned) -> None:
    assert pending(one_run, AWAY) == pending(one_run, AWAY, ["first"]) == 1
    key = planned(0).key
    end = (run_folder(one_run, key) / "events.jsonl").stat().st_size
    cursors = ExperimentCursors(one_run, AWAY, "first")
    cursors.write_experiment_id("1")
    cursors.write(key, Cursor("r", end - 1))
    assert pending(one_run, AWAY) == 0, "the rest is a torn line, which is no event"
    cursors.write(key, Cursor("r", 0))
    assert pending(one_run, AWAY) == 1


def test_a_cursor_into_a_file_that_is_gone_does_not_count(one_run: Path, planned: Planned) -> None:
    uri = f"sqlite:///{one_run}/mlflow.db"
    key = planned(0).key
    cursors = ExperimentCursors(one_run, uri, "first")
    cursors.write_experiment_id("1")
    cursors.write(key, Cursor("r", (run_folder(one_run, key) / "events.jsonl").stat().st_size))
    assert pending(one_run, uri) == 1
    write_plan(one_run, "second", [planned(1)], {})
    assert pending(one_run, uri, ["second"]) == 0, "a run that never began is not pending"
