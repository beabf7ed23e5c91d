"""Publishing to a real store in SQLite: every metric arrives once, whatever is killed or repeated."""

from __future__ import annotations

import json
import math
import shutil
import signal
import sqlite3
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.records.evaluations import write_evaluation
from bench.records.plan import write_experiment, write_plan
from bench.records.record import Record
from bench.records.states import run_folder
from bench.tracking.background import publisher_command, publisher_environment, start_publisher, stop_publisher
from bench.tracking.publishing import Publisher
from bench.tracking.reader import pending
from reproduce import schema
from reproduce.spec import PlannedRun, load_experiment

Planned = Callable[..., PlannedRun]
Begin = Callable[[Path, PlannedRun], Record]


@pytest.fixture
def records(tmp_path: Path, store: Path) -> Path:
    shutil.copy(store, tmp_path / "mlflow.db")
    return tmp_path


def uri(records: Path) -> str:
    return f"sqlite:///{records}/mlflow.db"


def runs(publisher: Publisher, experiment: str) -> dict[str, Any]:
    identity = publisher.sender.client.get_experiment_by_name(experiment).experiment_id
    found = publisher.sender.client.search_runs([identity])
    names = [run.info.run_name for run in found]
    assert len(set(names)) == len(names)
    return dict(zip(names, found, strict=True))


def test_a_run_of_two_experiments_is_published_in_both(records: Path, planned: Planned, begin: Begin) -> None:
    shared, broken = planned(0), planned(1)
    costs = {shared.key: {schema.COST_PARAMETERS: 7e6}}
    write_plan(records, "first", [shared, broken], costs)
    write_plan(records, "second", [shared], costs)
    record = begin(records, shared)
    record.epoch(0, {schema.VAL_TOP1: 0.5, schema.TRAIN_LOSS: math.nan})
    record.epoch(1, {schema.VAL_TOP1: 0.75})
    record.predictions({"index": np.arange(2), "label": np.arange(2)})
    record.end("finished", metrics={schema.FINAL_TOP1: 0.75})
    begin(records, broken).end("failed", error="loss is nan at epoch 0, step 3")
    assert pending(records, uri(records)) == 3

    publisher = Publisher(records, uri(records))
    assert publisher.publish(final=True)
    assert pending(records, uri(records)) == 0

    first, second = runs(publisher, "first"), runs(publisher, "second")
    assert set(first) == {"full s0", "full s1"}
    assert set(second) == {"full s0"}
    for run in (first["full s0"], second["full s0"]):
        assert run.info.status == "FINISHED"
        assert run.data.metrics[schema.FINAL_TOP1] == 0.75
        assert run.data.metrics[schema.COST_PARAMETERS] == 7e6
        assert schema.FINAL_DURATION_S in run.data.metrics
        assert run.data.params["network.aux"] == "both"
        assert run.data.params["recipe.epochs"] == "3"
        assert run.data.tags[schema.TAG_KEY] == shared.key
        assert run.data.tags[schema.TAG_GPU] == "no NVML"
        assert run.data.tags[schema.TAG_COMMIT] == "c0ffee"
        assert run.data.tags[f"{schema.TAG_ENVIRONMENT}torch"] == "2.14.1"
        history = publisher.sender.client.get_metric_history(run.info.run_id, schema.VAL_TOP1)
        assert [(point.step, point.value) for point in history] == [(0, 0.5), (1, 0.75)]
        assert math.isnan(publisher.sender.client.get_metric_history(run.info.run_id, schema.TRAIN_LOSS)[0].value)
        artifacts = {artifact.path for artifact in publisher.sender.client.list_artifacts(run.info.run_id)}
        assert artifacts == {"config.yaml", "environment.json", "events.jsonl", "predictions.parquet"}
    assert first["full s1"].info.status == "FAILED"
    assert "epoch 0, step 3" in first["full s1"].data.tags[schema.TAG_ERROR]


def test_missing_telemetry_is_published_as_a_tag(records: Path, planned: Planned, begin: Begin) -> None:
    complete, partial = planned(0), planned(1)
    write_plan(records, "first", [complete, partial], {})
    begin(records, complete).end("finished", telemetry={"gpu_absent": schema.NO_GPU_USED})
    begin(records, partial).end("finished", telemetry={"gpu_absent": "NVML does not know device 7"})
    publisher = Publisher(records, uri(records))
    assert publisher.publish(final=True)
    tags = {name: run.data.tags[schema.TAG_GPU_ABSENT] for name, run in runs(publisher, "first").items()}
    assert tags == {"full s0": "-", "full s1": "NVML does not know device 7"}


def test_an_evaluation_is_published_with_its_runs(records: Path, planned: Planned, begin: Begin) -> None:
    alone, other = planned(0), planned(1)
    write_plan(records, "first", [alone, other], {})
    for run in (alone, other):
        begin(records, run).end("finished", metrics={schema.FINAL_TOP1: 0.75})
    content = {"protocol": "10-crop", "date": "2026-11-24T12:00:00Z", "top1": 0.8, "top5": 0.9}
    predictions = {"index": np.arange(2), "label": np.arange(2)}
    for name, members in (("single", [alone]), ("ensemble", [alone, other])):
        models = [{"run": run.key} for run in members]
        write_evaluation(records / "evaluations" / name, {**content, "models": models}, predictions)
    assert pending(records, uri(records)) == 4

    assert Publisher(records, uri(records)).publish()
    assert pending(records, uri(records)) == 0
    publisher = Publisher(records, uri(records))
    assert publisher.publish()
    found = runs(publisher, "first")
    assert found["full s0"].data.metrics["evaluation/10-crop/top1"] == 0.8
    assert found["full s0"].data.metrics["evaluation/10-crop/top5"] == 0.9
    assert "evaluation/10-crop/top1" not in found["full s1"].data.metrics, "an ensemble's accuracy is not a run's own"
    kept = publisher.sender.client.list_artifacts(found["full s1"].info.run_id, "evaluations/ensemble")
    assert [artifact.path for artifact in kept] == ["evaluations/ensemble/evaluation.json"]


def test_an_interrupted_run_resumes_in_the_same_mlflow_run(records: Path, planned: Planned, begin: Begin) -> None:
    run = planned(0)
    write_plan(records, "first", [run], {})
    publisher = Publisher(records, uri(records))
    record = begin(records, run)
    record.epoch(0, {"a": 1.0})
    publisher.publish()
    assert runs(publisher, "first")["full s0"].info.status == "RUNNING"
    record.close()  # as a kill does
    publisher.publish(final=True)
    assert runs(publisher, "first")["full s0"].info.status == "KILLED"
    record = begin(records, run)
    publisher.publish()
    assert runs(publisher, "first")["full s0"].info.status == "RUNNING"
    record.epoch(1, {"a": 2.0})
    record.end("finished")
    publisher.publish()
    found = runs(publisher, "first")["full s0"]
    assert (found.info.status, found.data.tags[schema.TAG_ATTEMPT]) == ("FINISHED", "2")
    assert [point.value for point in publisher.sender.client.get_metric_history(found.info.run_id, "a")] == [1.0, 2.0]


def test_a_run_that_failed_before_it_began_is_described_by_its_next_attempt(
    records: Path, planned: Planned, begin: Begin
) -> None:
    run = planned(0)
    write_plan(records, "first", [run], {})
    Record(run_folder(records, run.key)).abandon("no worker came up")
    publisher = Publisher(records, uri(records))
    publisher.publish()
    assert runs(publisher, "first")["full s0"].info.status == "FAILED"
    begin(records, run).end("finished")
    publisher.publish()
    found = runs(publisher, "first")["full s0"]
    assert (found.info.status, found.data.params["recipe.epochs"]) == ("FINISHED", "3")
    assert found.data.tags[schema.TAG_DATA] == "tiny"


def test_a_lost_cursor_repeats_nothing(records: Path, planned: Planned, begin: Begin) -> None:
    run = planned(0)
    write_plan(records, "first", [run], {})
    record = begin(records, run)
    record.epoch(0, {"a": 1.0, "b": math.inf})
    record.end("finished")
    Publisher(records, uri(records)).publish()
    before = rows(records)
    shutil.rmtree(records / "publisher")
    publisher = Publisher(records, uri(records))
    publisher.publish()
    assert rows(records) == before
    assert len(runs(publisher, "first")) == 1


def test_a_lost_response_to_create_run_makes_no_second_run(
    records: Path, planned: Planned, begin: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = planned(0)
    write_plan(records, "first", [run], {})
    begin(records, run).end("finished")
    publisher = Publisher(records, f"sqlite:///{shutil.copy(records / 'mlflow.db', records / 'elsewhere.db')}")
    create = publisher.sender.client.create_run

    def create_and_lose(*arguments: Any, **options: Any) -> None:
        create(*arguments, **options)
        raise TimeoutError("no response")

    with monkeypatch.context() as patch:
        patch.setattr(publisher.sender.client, "create_run", create_and_lose)
        with pytest.raises(TimeoutError):
            publisher.publish()
    publisher.publish()
    assert runs(publisher, "first")["full s0"].data.params["recipe.epochs"] == "3"


def test_a_cursor_of_an_earlier_version_is_continued(records: Path, planned: Planned, begin: Begin) -> None:
    run = planned(0)
    write_plan(records, "first", [run], {})
    record = begin(records, run)
    record.epoch(0, {"a": 1.0})
    publisher = Publisher(records, uri(records))
    publisher.publish()
    before = runs(publisher, "first")["full s0"]
    (cursor,) = (records / "publisher").glob("*/first/*.json")
    offset = (run_folder(records, run.key) / "events.jsonl").stat().st_size
    assert json.loads(cursor.read_text(encoding="utf-8")) == {
        "run_id": before.info.run_id,
        "offset": offset,
        "status": "RUNNING",
        "epoch": 0,
        "described": True,
    }
    record.epoch(1, {"a": 2.0})
    record.end("finished")
    publisher = Publisher(records, uri(records))
    publisher.publish()
    history = publisher.sender.client.get_metric_history(before.info.run_id, "a")
    assert [(point.step, point.value) for point in history] == [(0, 1.0), (1, 2.0)]


def test_an_experiment_deleted_in_mlflow_is_not_published(records: Path, planned: Planned, begin: Begin) -> None:
    for name in ("first", "second"):
        write_plan(records, name, [planned(0)], {})
    begin(records, planned(0)).end("finished")
    publisher = Publisher(records, uri(records))
    client = publisher.sender.client
    client.delete_experiment(client.create_experiment("first"))
    assert not publisher.publish()
    assert set(runs(publisher, "second")) == {"full s0"}


def test_a_store_that_was_replaced_is_filled_again(records: Path, store: Path, planned: Planned, begin: Begin) -> None:
    run = planned(0)
    write_plan(records, "first", [run], {})
    begin(records, run).end("finished")
    Publisher(records, uri(records)).publish()
    shutil.copy(store, records / "mlflow.db")
    publisher = Publisher(records, uri(records))
    publisher.publish()
    assert set(runs(publisher, "first")) == {"full s0"}


def test_a_rejected_run_does_not_stop_the_others(records: Path, planned: Planned, begin: Begin) -> None:
    bad, good = planned(0), planned(1)
    write_plan(records, "first", [bad, good], {})
    record = begin(records, bad)
    record.epoch(0, {"no (such) name?": 1.0})
    record.end("finished")
    begin(records, good).end("finished")
    publisher = Publisher(records, uri(records))
    assert not publisher.publish()
    assert runs(publisher, "first")["full s1"].info.status == "FINISHED"


def test_several_connections_publish_every_run_once_also_where_the_store_was_away_or_rejects_one(
    records: Path, planned: Planned, begin: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned_runs = [planned(seed) for seed in range(8)]
    write_plan(records, "first", planned_runs, {})
    for run in planned_runs:
        record = begin(records, run)
        record.epoch(0, {"no (such) name?" if run.seed == 3 else schema.VAL_TOP1: 0.5})
        record.end("finished")
    shutil.copy(records / "mlflow.db", records / "other.db")
    publisher = Publisher(records, f"sqlite:///{records}/other.db")
    publisher.sender.connections = 4

    def away(*_: object, **__: object) -> None:
        raise ConnectionError("away")

    with monkeypatch.context() as patch:
        patch.setattr(publisher.sender, "create_run", away)
        with pytest.raises(ConnectionError):
            publisher.publish()
    assert not publisher.publish(), "one run is rejected"
    found = runs(publisher, "first")
    assert {name: run.info.status for name, run in found.items() if name != "full s3"} == {
        f"full s{seed}": "FINISHED" for seed in range(8) if seed != 3
    }
    assert pending(records, f"sqlite:///{records}/other.db") == 1


def test_what_a_killed_publisher_left_is_published_by_the_next_one(
    records: Path, planned: Planned, begin: Begin
) -> None:
    run = planned(0)
    epochs, names = 600, [f"m/{index}" for index in range(40)]
    write_plan(records, "first", [run], {})
    record = begin(records, run)
    for epoch in range(epochs):
        record.epoch(epoch, dict.fromkeys(names, float(epoch)))
    record.end("finished")
    environment = publisher_environment(uri(records))
    first = subprocess.Popen(publisher_command(records), stdout=subprocess.PIPE, env=environment)
    while not rows(records):
        assert first.poll() is None
        time.sleep(0.01)
    first.send_signal(signal.SIGKILL)
    assert first.communicate()[0] == b""
    assert 0 < sum(rows(records).values()) < epochs * len(names)
    assert stop_publisher(start_publisher(records, uri=uri(records)), timeout_s=120) is None
    found = rows(records)
    assert set(found.values()) == {1}
    assert len(found) == epochs * len(names) + 1  # and the duration


def rows(records: Path) -> Counter[tuple[Any, ...]]:
    """How many times the store holds each metric of each step."""
    with sqlite3.connect(records / "mlflow.db", timeout=30) as database:
        return Counter(database.execute("select run_uuid, key, step from metrics").fetchall())


def test_the_note_of_an_experiment_holds_its_description_and_those_of_its_arms(
    records: Path, planned: Planned, begin: Begin
) -> None:
    experiment = load_experiment("quickstart")
    arm = next(iter(experiment.arms))
    run = planned(0, experiment="quickstart", arm=arm)
    write_experiment(records, experiment)
    write_plan(records, "quickstart", [run], {})
    begin(records, run).end("finished")
    Publisher(records, uri(records)).publish()
    from mlflow import MlflowClient

    note = MlflowClient(tracking_uri=uri(records)).get_experiment_by_name("quickstart").tags["mlflow.note.content"]
    assert experiment.description in note
    assert experiment.arms[arm].description in note
