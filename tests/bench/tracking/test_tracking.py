"""Where records are mirrored to, the publisher's process and the dashboard."""

from __future__ import annotations

import json
import re
import shutil
import socket
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from bench.machine import filesystems
from bench.records.record import Record, write_plan
from bench.tracking.mirror import Mirror
from bench.tracking.store import (
    DashboardError,
    dashboard,
    experiment_id,
    pending,
    serving,
    start_publisher,
    stop_publisher,
    tracking_uri,
)
from reproduce.spec import PlannedRun


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def records(tmp_path: Path, planned: Callable[..., PlannedRun], begin: Callable[[Path, PlannedRun], Record]) -> Path:
    run = planned(0)
    write_plan(tmp_path, "first", [run], {})
    begin(tmp_path, run).end("finished")
    return tmp_path


def test_the_store_is_the_environments_or_beside_the_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert tracking_uri(tmp_path) == f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://server:5000")
    assert tracking_uri(tmp_path) == "http://server:5000"


def test_no_sqlite_on_a_network_file_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "mountinfo").write_text(
        f"1 0 8:1 / / rw - ext4 a rw\n2 1 0:2 / {tmp_path}/shared rw - nfs4 b:/ rw\n", encoding="utf-8"
    )
    monkeypatch.setattr(filesystems, "MOUNTS", tmp_path / "mountinfo")
    shared, other = (tracking_uri(tmp_path / "shared" / name) for name in ("records", "other"))
    assert re.fullmatch(rf"sqlite:////var/tmp/deeper-\w+/{socket.gethostname()}-[0-9a-f]{{8}}/mlflow\.db", shared)
    assert shared != other
    assert tracking_uri(tmp_path / "records") == f"sqlite:///{tmp_path}/records/mlflow.db"


def test_a_server_that_is_away_is_told_and_nothing_is_lost(records: Path) -> None:
    away = f"http://127.0.0.1:{free_port()}"
    publisher = start_publisher(records, uri=away)
    message = stop_publisher(publisher, timeout_s=4)
    assert message is not None
    assert "1 run is not wholly in MLflow" in message
    assert away in message
    assert pending(records, away) == 1


def test_a_command_in_a_hurry_leaves_the_publisher_to_itself(records: Path) -> None:
    publisher = start_publisher(records, uri=f"http://127.0.0.1:{free_port()}")
    try:
        message = stop_publisher(publisher, timeout_s=600, hurry=lambda: True)
        assert message is not None
        assert message.endswith("gets the rest in the background")
        assert publisher.process.poll() is None
    finally:
        publisher.process.kill()
        publisher.process.wait()


def test_the_dashboard_serves_what_was_mirrored(records: Path, store: Path) -> None:
    uri = f"sqlite:///{shutil.copy(store, records)}"
    Mirror(records, uri).publish()
    identity = experiment_id(records, uri, "first")
    with serving(records, uri=uri, port=free_port()) as server:
        query = json.dumps({"experiment_ids": [identity]}).encode()
        request = urllib.request.Request(f"{server.address}/api/2.0/mlflow/runs/search", query)
        request.add_header("Content-Type", "application/json")
        with urllib.request.urlopen(request) as answer:
            (run,) = json.load(answer)["runs"]
        artifact = f"{server.address}/get-artifact?path=config.yaml&run_uuid={run['info']['run_id']}"
        with urllib.request.urlopen(artifact) as answer:
            assert b"batch_size: 8" in answer.read()
    assert run["info"]["run_name"] == "full s0"
    assert run["info"]["status"] == "FINISHED"
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(f"{server.address}/health", timeout=2)


def test_a_port_in_use_is_named_with_a_free_one(records: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(DashboardError, match=rf"port: {port} on 127.0.0.1: .*; \d+ is free"):
            dashboard(records, port=port)


def test_no_records_are_told_before_a_server_is_started(tmp_path: Path) -> None:
    with pytest.raises(DashboardError, match="holds no experiment"):
        dashboard(tmp_path, port=free_port())


def test_a_remote_servers_address_is_printed(
    records: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://server:5000")
    assert dashboard(records, experiment="first") == 0
    assert capsys.readouterr().out == "MLflow: http://server:5000\n"
