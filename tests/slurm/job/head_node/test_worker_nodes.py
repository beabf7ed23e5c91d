"""For whom the head node waits, and without whom it continues."""

from __future__ import annotations

import socket
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from cluster import until

from bench.console.exit_codes import DONE, FAILED, INTERRUPTED, WRONG_INPUT
from slurm.job import head_node
from slurm.job.node import staging
from slurm.job.rendezvous import NodeReport, RendezvousClient, RendezvousServer, wait_for_rendezvous

if TYPE_CHECKING:
    from tests.slurm.job.conftest import DriverDouble, RayDouble, Submission
    from tests.slurm.job.head_node.conftest import MakeHead


def test_deeper_run_starts_when_all_worker_nodes_have_reported(
    head: MakeHead, submission: Submission, driver: DriverDouble, worker_reports: Any
) -> None:
    data = str(submission.config.data)
    clients = worker_reports(NodeReport("n2", data), NodeReport("n3", data))
    assert head(nodes=3).run() == DONE
    assert driver.command is not None
    assert driver.command[driver.command.index("--address") + 1] == "127.0.0.1:33775"
    for client in clients:
        assert client.over.wait(30)
        assert not client.head_lost


def test_the_job_continues_without_a_node_that_has_a_problem(
    head: MakeHead, worker_reports: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    worker_reports(NodeReport("n2", "/data", "n2: no data", "mistake"))
    assert head(nodes=2).run() == DONE
    assert "continuing without n2: no data" in capsys.readouterr().err


def test_the_job_continues_without_a_node_that_does_not_report(
    head: MakeHead, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its launcher never starts: another one, which has connected, is given longer to report."""
    monkeypatch.setattr(head_node, "CONNECT_TIMEOUT_S", 0.5)
    monkeypatch.setattr(head_node, "CONNECT_FACTOR", 0)
    monkeypatch.setattr(head_node, "SAY_AFTER_S", 0)
    assert head(nodes=2).run() == DONE
    said = capsys.readouterr().err
    assert "waiting for the launchers of n2, for at most 0 s" in said
    assert "continuing without n2: its launcher did not start within 0 s" in said


def test_a_node_whose_launcher_has_started_is_given_longer(
    head: MakeHead, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(head_node, "CONNECT_TIMEOUT_S", 0)
    monkeypatch.setattr(head_node, "CONNECT_FACTOR", 0)
    monkeypatch.setattr(head_node, "REPORT_TIMEOUT_S", 1.0)
    clients: list[RendezvousClient] = []
    real = head_node.RendezvousServer

    def serve(address: str, file: Path) -> RendezvousServer:
        server = real(address, file)
        clients.append(RendezvousClient(wait_for_rendezvous(file, timeout_s=120), "n2"))
        until(lambda: server.connected, "the connection", seconds=60)
        return server

    monkeypatch.setattr(head_node, "RendezvousServer", serve)
    assert head(nodes=2).run() == DONE
    assert "continuing without n2: its launcher was not ready in time" in capsys.readouterr().err


def test_a_head_node_that_copies_data_stops_when_the_job_does(
    head: MakeHead, driver: DriverDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(staging, "prepare_data", lambda config: threading.Event().wait(60))
    node = head()
    node.stop.file.write_text("time limit", encoding="utf-8")
    assert node.run() == INTERRUPTED
    assert driver.command is None


def test_a_mistake_names_the_nodes_that_are_missing_for_it(
    head: MakeHead, submission: Submission, driver: DriverDouble, worker_reports: Any
) -> None:
    worker_reports(NodeReport("n2", "/data", "n2: no data", "mistake"))
    driver.code, driver.mistake = WRONG_INPUT, "resources: 2 workers do not fit"
    head(nodes=2).run()
    assert {state.error for state in submission.states().values()} == {"n2: no data | resources: 2 workers do not fit"}


@pytest.mark.parametrize(
    ("cause", "restarts", "code"), [("lost", 0, INTERRUPTED), ("ray", 0, FAILED), ("ray", 1, INTERRUPTED)]
)
@pytest.mark.parametrize("scratch", [None, "/tmp"])
def test_runs_that_do_not_fit_for_want_of_a_lost_node_do_not_fail(
    head: MakeHead,
    submission: Submission,
    driver: DriverDouble,
    worker_reports: Any,
    monkeypatch: pytest.MonkeyPatch,
    cause: Any,
    restarts: int,
    code: int,
    scratch: str | None,
) -> None:
    """Nor is it waited for: not for the 300 s of a report, nor for the hours of a copy."""
    monkeypatch.setattr(staging, "prepare_data", lambda config: config.data)
    worker_reports(NodeReport("n2", "/data", "n2: Ray does not come up", cause))
    driver.code, driver.mistake = WRONG_INPUT, "resources.workers: 2 workers do not fit"
    assert head(nodes=2, restarts=restarts, scratch=scratch).run() == code
    assert set(submission.statuses().values()) == {"waiting"}


def test_nodes_that_read_different_folders_are_a_mistake(
    head: MakeHead, submission: Submission, driver: DriverDouble, worker_reports: Any
) -> None:
    worker_reports(NodeReport("n2", "/elsewhere"))
    assert head(nodes=2).run() == WRONG_INPUT
    assert all("/elsewhere on n2; name a folder" in str(state.error) for state in submission.states().values())
    assert driver.command is None


def test_a_request_to_stop_ends_the_wait_for_worker_nodes(head: MakeHead, driver: DriverDouble) -> None:
    node = head(nodes=2)
    node.stop.file.write_text("time limit", encoding="utf-8")
    driver.code = INTERRUPTED
    assert node.run() == INTERRUPTED  # without waiting for n2, which takes 300 s


def test_a_cluster_that_is_joined_is_not_asked_for_its_address(
    head: MakeHead, ray: RayDouble, driver: DriverDouble
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        assert head(join=address).run() == DONE
    assert ray.arguments["head_address"] == address
    assert driver.command is not None
    assert address in driver.command


def test_a_cluster_that_cannot_be_joined_ends_the_job_at_once(
    head: MakeHead, ray: RayDouble, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
    assert head(join=address).run() == FAILED
    assert f"no Ray cluster can be joined at {address}: Connection refused" in capsys.readouterr().err
    assert ray.arguments == {}
