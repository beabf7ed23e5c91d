"""MLflow's server on a store in a file."""

from __future__ import annotations

import json
import shutil
import socket
import urllib.request
from pathlib import Path

import pytest

from bench.tracking.cursors import ExperimentCursors
from bench.tracking.dashboard import DashboardError, run_dashboard, serving
from bench.tracking.publishing import Publisher


def test_the_dashboard_serves_what_is_published(one_run: Path, store: Path, free_port: int) -> None:
    uri = f"sqlite:///{shutil.copy(store, one_run)}"
    Publisher(one_run, uri).publish()
    identity = ExperimentCursors(one_run, uri, "first").experiment_id()
    with serving(one_run, uri=uri, port=free_port) as server:
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


def test_a_port_in_use_is_reported_with_a_free_one(one_run: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(DashboardError, match=rf"port: {port} on 127.0.0.1: .*; \d+ is free"):
            run_dashboard(one_run, port=port)


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.1", "node1"])
def test_an_address_that_others_reach_has_to_be_allowed(one_run: Path, host: str, free_port: int) -> None:
    with pytest.raises(DashboardError, match=rf"host: at {host}, everyone .* no password; .* --without-password"):
        run_dashboard(one_run, host=host, port=free_port)


def test_missing_records_are_reported_before_a_server_is_started(tmp_path: Path, free_port: int) -> None:
    with pytest.raises(DashboardError, match="holds no experiment"):
        run_dashboard(tmp_path, port=free_port)


def test_only_the_address_of_a_remote_server_is_printed(
    one_run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://server:5000")
    assert run_dashboard(one_run, experiment="first") == 0
    assert capsys.readouterr().out == "MLflow: http://server:5000/#/experiments?workflowType=machine_learning\n"
