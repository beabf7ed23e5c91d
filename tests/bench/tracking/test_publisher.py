"""The mirror of records in MLflow, on a real sqlite store: every metric once, whatever is killed or repeated."""

from __future__ import annotations

import math
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.records.evaluations import write_evaluation
from bench.records.record import Record, write_plan
from bench.records.states import run_folder
from bench.tracking.mirror import Mirror, _devices
from bench.tracking.store import pending, start_publisher, stop_publisher
from reproduce import schema
from reproduce.spec import PlannedRun

Planned = Callable[..., PlannedRun]
Begin = Callable[[Path, PlannedRun], Record]


@pytest.fixture
def records(tmp_path: Path, store: Path) -> Path:
    shutil.copy(store, tmp_path / "mlflow.db")
    return tmp_path


def uri(records: Path) -> str:
    return f"sqlite:///{records}/mlflow.db"


def runs(mirror: Mirror, experiment: str) -> dict[str, Any]:
    identity = mirror.client.get_experiment_by_name(experiment).experiment_id
    found = mirror.client.search_runs([identity])
    names = [run.info.run_name for run in found]
    assert len(set(names)) == len(names)
    return dict(zip(names, found, strict=True))


def test_two_experiments_share_a_run_and_each_shows_its_outcome(records: Path, planned: Planned, begin: Begin) -> None:
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

    mirror = Mirror(records, uri(records))
    assert mirror.publish(final=True)
    assert pending(records, uri(records)) == 0

    first, second = runs(mirror, "first"), runs(mirror, "second")
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
        history = mirror.client.get_metric_history(run.info.run_id, schema.VAL_TOP1)
        assert [(point.step, point.value) for point in history] == [(0, 0.5), (1, 0.75)]
        assert math.isnan(mirror.client.get_metric_history(run.info.run_id, schema.TRAIN_LOSS)[0].value)
        artifacts = {artifact.path for artifact in mirror.client.list_artifacts(run.info.run_id)}
        assert artifacts == {"config.yaml", "environment.json", "events.jsonl", "predictions.parquet"}
    assert first["full s1"].info.status == "FAILED"
    assert "epoch 0, step 3" in first["full s1"].data.tags[schema.TAG_ERROR]


def test_what_telemetry_lacks_and_a_shared_gpu_show_as_tags(records: Path, planned: Planned, begin: Begin) -> None:
    sampled, blind = planned(0), planned(1)
    write_plan(records, "first", [sampled, blind], {})
    begin(records, sampled).end("finished", telemetry={"gpu_absent": schema.NO_GPU_USED})
    begin(records, blind).end("finished", telemetry={"gpu_absent": "NVML does not know device 7"})
    mirror = Mirror(records, uri(records))
    assert mirror.publish(final=True)
    tags = {name: run.data.tags[schema.TAG_GPU_ABSENT] for name, run in runs(mirror, "first").items()}
    assert tags == {"full s0": "-", "full s1": "NVML does not know device 7"}


@pytest.mark.parametrize(
    ("start", "told"),
    [
        ({"device": "cuda:0", "resources": {"gpus_per_worker": 0.25}}, "H200, 0.25 of one a run"),
        ({"device": "cuda:0", "resources": {"gpus_per_worker": 1}}, "H200"),
        ({"device": "cuda:0"}, "H200"),  # as recorded before resources were
        ({"device": "cpu"}, "not used (H200)"),
    ],
)
def test_devices_are_told_with_the_share_that_a_run_had(start: dict[str, Any], told: str) -> None:
    assert _devices(start, {"gpus": [{"name": "H200", "uuid": "GPU-a"}]}) == told


def test_an_evaluation_shows_on_the_runs_that_it_is_of(records: Path, planned: Planned, begin: Begin) -> None:
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

    assert Mirror(records, uri(records)).publish()
    assert pending(records, uri(records)) == 0
    mirror = Mirror(records, uri(records))
    assert mirror.publish()
    found = runs(mirror, "first")
    assert found["full s0"].data.metrics["evaluation/10-crop/top1"] == 0.8
    assert found["full s0"].data.metrics["evaluation/10-crop/top5"] == 0.9
    assert "evaluation/10-crop/top1" not in found["full s1"].data.metrics, "an ensemble's accuracy is not a run's own"
    kept = mirror.client.list_artifacts(found["full s1"].info.run_id, "evaluations/ensemble")
    assert [artifact.path for artifact in kept] == ["evaluations/ensemble/evaluation.json"]


def test_an_interrupted_run_goes_on_in_the_same_mlflow_run(records: Path, planned: Planned, begin: Begin) -> None:
    run = planned(0)
    write_plan(records, "first", [run], {})
    mirror = Mirror(records, uri(records))
    record = begin(records, run)
    record.epoch(0, {"a": 1.0})
    mirror.publish()
    assert runs(mirror, "first")["full s0"].info.status == "RUNNING"
    record.close()  # as a kill does
    mirror.publish(final=True)
    assert runs(mirror, "first")["full s0"].info.status == "KILLED"
    record = begin(records, run)
    mirror.publish()
    assert runs(mirror, "first")["full s0"].info.status == "RUNNING"
    record.epoch(1, {"a": 2.0})
    record.end("finished")
    mirror.publish()
    found = runs(mirror, "first")["full s0"]
    assert (found.info.status, found.data.tags[schema.TAG_ATTEMPT]) == ("FINISHED", "2")
    assert [point.value for point in mirror.client.get_metric_history(found.info.run_id, "a")] == [1.0, 2.0]


def test_a_run_that_failed_before_it_began_is_described_by_its_next_attempt(
    records: Path, planned: Planned, begin: Begin
) -> None:
    run = planned(0)
    write_plan(records, "first", [run], {})
    Record(run_folder(records, run.key)).abandon("no worker came up")
    mirror = Mirror(records, uri(records))
    mirror.publish()
    assert runs(mirror, "first")["full s0"].info.status == "FAILED"
    begin(records, run).end("finished")
    mirror.publish()
    found = runs(mirror, "first")["full s0"]
    assert (found.info.status, found.data.params["recipe.epochs"]) == ("FINISHED", "3")
    assert found.data.tags[schema.TAG_DATA] == "tiny"


def test_a_lost_cursor_repeats_nothing(records: Path, planned: Planned, begin: Begin) -> None:
    run = planned(0)
    write_plan(records, "first", [run], {})
    record = begin(records, run)
    record.epoch(0, {"a": 1.0, "b": math.inf})
    record.end("finished")
    Mirror(records, uri(records)).publish()
    before = rows(records)
    shutil.rmtree(records / "publisher")
    mirror = Mirror(records, uri(records))
    mirror.publish()
    assert rows(records) == before
    assert len(runs(mirror, "first")) == 1


def test_a_lost_answer_to_create_makes_no_second_run(
    records: Path, planned: Planned, begin: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = planned(0)
    write_plan(records, "first", [run], {})
    begin(records, run).end("finished")
    mirror = Mirror(records, uri(records))
    create = mirror.client.create_run

    def create_and_lose(*arguments: Any, **options: Any) -> None:
        create(*arguments, **options)
        raise TimeoutError("no answer")

    with monkeypatch.context() as patch:
        patch.setattr(mirror.client, "create_run", create_and_lose)
        with pytest.raises(TimeoutError):
            mirror.publish()
    mirror.publish()
    assert runs(mirror, "first")["full s0"].data.params["recipe.epochs"] == "3"


def test_a_store_that_is_gone_is_filled_again(records: Path, store: Path, planned: Planned, begin: Begin) -> None:
    run = planned(0)
    write_plan(records, "first", [run], {})
    begin(records, run).end("finished")
    Mirror(records, uri(records)).publish()
    shutil.copy(store, records / "mlflow.db")
    mirror = Mirror(records, uri(records))
    mirror.publish()
    assert set(runs(mirror, "first")) == {"full s0"}


def test_what_the_store_rejects_does_not_stop_the_others(records: Path, planned: Planned, begin: Begin) -> None:
    bad, good = planned(0), planned(1)
    write_plan(records, "first", [bad, good], {})
    record = begin(records, bad)
    record.epoch(0, {"no (such) name?": 1.0})
    record.end("finished")
    begin(records, good).end("finished")
    mirror = Mirror(records, uri(records))
    assert not mirror.publish()
    assert runs(mirror, "first")["full s1"].info.status == "FINISHED"


def test_a_publisher_killed_midway_is_made_good_by_the_next(records: Path, planned: Planned, begin: Begin) -> None:
    run = planned(0)
    epochs, names = 150, [f"m/{index}" for index in range(40)]
    write_plan(records, "first", [run], {})
    record = begin(records, run)
    for epoch in range(epochs):
        record.epoch(epoch, dict.fromkeys(names, float(epoch)))
    record.end("finished")
    command = [
        sys.executable,
        "-m",
        "bench.tracking.publisher",
        "--records",
        str(records),
        "--tracking-uri",
        uri(records),
    ]
    first = subprocess.Popen(command, stdout=subprocess.PIPE)
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
    """How often the store holds each metric of each step."""
    with sqlite3.connect(records / "mlflow.db", timeout=30) as database:
        return Counter(database.execute("select run_uuid, key, step from metrics").fetchall())
