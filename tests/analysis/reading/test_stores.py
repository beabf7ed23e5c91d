"""A real store is read with the same result from its tables, through MLflow's client, and from a real server."""

from __future__ import annotations

import json
import math
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from mlflow import MlflowClient
from mlflow.entities import Metric

from analysis.details.artifacts import fetched
from analysis.frames import read
from analysis.reading import mlflow_store, sqlite_store
from analysis.reading.opening import AnalysisError, open_store
from bench.suites.report.generation import generated_experiment, write_generated_records
from bench.tracking.location import embedded_uri
from bench.tracking.publishing import Publisher
from bench.tracking.reader import pending
from reproduce import schema
from reproduce.text.sealing import sealed
from tests.analysis.conftest import STARTED, build_store


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The usual store, in which one run also has repeated epochs and values that are not finite."""
    uri = build_store(tmp_path_factory.mktemp("store"))
    client = MlflowClient(tracking_uri=uri)
    grid = client.get_experiment_by_name("grid")
    assert grid is not None
    run = client.search_runs([grid.experiment_id])[0].info.run_id
    later = STARTED + 10**7
    client.log_batch(
        run,
        metrics=[
            Metric(schema.VAL_TOP1, 0.5, later, 0),
            Metric(schema.VAL_TOP1, 0.75, later, 0),
            Metric(schema.VAL_TOP1, 0.99, STARTED, 1),
            Metric("gradient/stem", math.inf, later, 7),
            Metric("gradient/stem", -math.inf, later, 8),
            Metric("gradient/stem", math.nan, later, 9),
            Metric("gradient/aux1", 1.0, later, 9),
            Metric("final/odd", -math.inf, later, 0),
        ],
    )
    return uri


@pytest.fixture(scope="module")
def server(uri: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    folder = tmp_path_factory.mktemp("server")
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", uri, "--workers", "1"]
    environment = {
        **os.environ,
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "NO_PROXY": "127.0.0.1",
    }
    with pytest.MonkeyPatch.context() as patch, open(folder / "log", "wb") as log:
        patch.setenv("NO_PROXY", "127.0.0.1")
        process = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", str(port)],
            cwd=folder,
            env=environment,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        try:
            deadline = time.monotonic() + 120
            while not healthy(port):
                assert process.poll() is None, (folder / "log").read_text("utf-8")
                assert time.monotonic() < deadline
                time.sleep(0.2)
            yield f"http://127.0.0.1:{port}"
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def healthy(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
            return True
    except (urllib.error.URLError, OSError):
        return False


def assert_same(first: str, second: str) -> None:
    one, other = read("grid", tracking_uri=first), read("grid", tracking_uri=second)
    pd.testing.assert_frame_equal(one.runs, other.runs)
    pd.testing.assert_frame_equal(one.epochs, other.epochs)
    assert one.not_finite == other.not_finite == {"gradient/stem": 3}
    assert (one.experiment_id, one.description) == (other.experiment_id, other.description)


def test_tables_and_server_give_equal_frames(uri: str, server: str) -> None:
    assert_same(uri, server)


def test_a_file_that_a_server_keeps_is_fetched_by_name(server: str, tmp_path: Path) -> None:
    client = MlflowClient(tracking_uri=server)
    runs = [client.create_run(client.create_experiment(name)).info for name in ("kept here", "kept there")]
    (tmp_path / "what is kept.txt").write_text("this", encoding="utf-8")
    client.log_artifact(runs[0].run_id, str(tmp_path / "what is kept.txt"))
    folders = {run.run_id: run.artifact_uri for run in runs}
    assert all(uri.startswith("mlflow-artifacts:/") for uri in folders.values())
    with fetched("what is kept.txt", folders, server) as files:
        assert [(run, path.read_text("utf-8")) for run, path in files.items()] == [(runs[0].run_id, "this")]


def test_responses_that_may_have_been_cut_are_asked_for_again(
    uri: str, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mlflow_store, "BULK_VALUES", 5)
    assert_same(uri, server)


def test_a_server_without_the_endpoint_is_asked_for_each_history(
    uri: str, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mlflow_store, "BULK_ENDPOINT", "/api/2.0/mlflow/metrics/absent")
    assert_same(uri, server)


def test_an_unknown_schema_is_read_through_the_client_and_a_warning_says_so(
    uri: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    direct = read("grid", tracking_uri=uri)
    monkeypatch.setattr(sqlite_store, "KNOWN_SCHEMAS", ())
    through_client = read("grid", tracking_uri=uri)
    pd.testing.assert_frame_equal(direct.runs, through_client.runs)
    pd.testing.assert_frame_equal(direct.epochs, through_client.epochs)
    assert "is read through MLflow, which is slower" in caplog.text


def test_the_tables_are_read_without_mlflow(uri: str) -> None:
    code = (
        "import sys; from analysis.frames import read; "
        f"assert len(read('grid', tracking_uri={uri!r}).runs) == 12; sys.exit('mlflow' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[3]).returncode == 0


def test_a_uri_that_is_none_of_a_store_is_one_sentence() -> None:
    with pytest.raises(AnalysisError, match=r"^tracking_uri: foo://\*\*\*@x is no MLflow store: [^\n]*foo"):
        open_store("foo://me:hunter22@x")


def finished_run(client: MlflowClient, experiment: str, lines: list[bytes], folder: Path, status: str) -> str:
    """Create a run with two metrics of 0.5 each and a file of events."""
    run_id = client.create_run(experiment).info.run_id
    client.log_batch(run_id, metrics=[Metric(name, 0.5, STARTED, 0) for name in (schema.VAL_TOP1, schema.VAL_LOSS)])
    (folder / schema.ARTIFACT_EVENTS).write_bytes(b"".join(line + b"\n" for line in lines))
    client.log_artifact(run_id, str(folder / schema.ARTIFACT_EVENTS))
    client.set_terminated(run_id, status)
    return run_id


def test_the_epochs_of_a_finished_run_are_read_from_its_events_and_from_mlflow_where_these_do_not_serve(
    server: str, tmp_path: Path
) -> None:
    client = MlflowClient(tracking_uri=server)
    experiment = client.create_experiment("events")
    metrics = {"val/top1": 0.25, "gradient/5": "inf"}
    lines = [
        sealed(json.dumps({"t": 1.0, "attempt": 1, "kind": "start"}).encode()),
        *(sealed(json.dumps({"kind": "epoch", "epoch": epoch, "metrics": metrics}).encode()) for epoch in (0, 1, 1)),
    ]
    damaged = [*lines[:2], lines[2].replace(b"0.25", b"0.26")]
    runs = [
        finished_run(client, experiment, lines, tmp_path, "FINISHED"),
        finished_run(client, experiment, damaged, tmp_path, "FINISHED"),
        finished_run(client, experiment, lines, tmp_path, "RUNNING"),
    ]
    store = open_store(server)
    assert {run.id for run in store.runs(experiment)} == set(runs)
    found = dict(store.histories({schema.VAL_TOP1: runs, schema.VAL_LOSS: runs, "gradient/5": runs[:1]}))
    top1 = found[schema.VAL_TOP1]
    assert [*zip(top1.run.tolist(), top1.step.tolist(), top1.value.tolist(), strict=True)] == [
        *((0, epoch, 0.25) for epoch in (0, 1, 1)),
        (1, 0, 0.5),
        (2, 0, 0.5),
    ]
    assert found[schema.VAL_LOSS].value.tolist() == [0.5, 0.5, 0.5], "the events do not hold it"
    assert found["gradient/5"].value.tolist() == [math.inf] * 3


def test_what_is_published_to_a_server_is_what_is_published_to_the_embedded_store(server: str, tmp_path: Path) -> None:
    list(write_generated_records(tmp_path, 4, 3))
    name = generated_experiment(4, 3).name
    found = []
    for uri in (embedded_uri(tmp_path), server):
        assert Publisher(tmp_path, uri).publish(final=True)
        assert pending(tmp_path, uri) == 0
        found.append(read(name, tracking_uri=uri))
    embedded, sent = found
    runs = [frame.drop(columns="run_id").sort_values("key", ignore_index=True) for frame in (embedded.runs, sent.runs)]
    pd.testing.assert_frame_equal(runs[0], runs[1], check_like=True)
    epochs = [
        frame.drop(columns="run_id").sort_values(["arm", "seed", "epoch"], ignore_index=True)
        for frame in (embedded.epochs, sent.epochs)
    ]
    pd.testing.assert_frame_equal(epochs[0], epochs[1], check_like=True)
    client = MlflowClient(tracking_uri=server)
    experiment = client.get_experiment_by_name(name)
    assert experiment is not None
    for run in client.search_runs([experiment.experiment_id]):
        assert [entry.dataset.name for entry in run.inputs.dataset_inputs] == ["generated"]
        assert run.data.params["network.reduction"] in ("reduced", "unreduced")
        history = client.get_metric_history(run.info.run_id, schema.VAL_TOP1)
        own = sent.epochs[sent.epochs["run_id"] == run.info.run_id].sort_values("epoch")
        assert [point.value for point in sorted(history, key=lambda point: point.step)] == own[schema.VAL_TOP1].tolist()
