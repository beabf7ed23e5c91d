"""The nodes of a job find each other by one file, and learn of the job's end by their connection."""

from __future__ import annotations

import json
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster import until

from slurm.job.rendezvous import (
    NodeReport,
    Rendezvous,
    RendezvousClient,
    RendezvousError,
    RendezvousServer,
    cancel_rendezvous,
    rendezvous_file,
    wait_for_rendezvous,
)

REPORT = NodeReport("n2", "/data", "n2: no data", "mistake")
RAY_ADDRESS = "127.0.0.1:6379"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return rendezvous_file(tmp_path, "17", 0)


@pytest.fixture
def server(file: Path) -> Iterator[RendezvousServer]:
    started = RendezvousServer("127.0.0.1", file)
    yield started
    started.close()


def connected(file: Path, server: RendezvousServer) -> RendezvousClient:
    """A client that the server knows."""
    client = RendezvousClient(wait_for_rendezvous(file, timeout_s=60), "n2")
    until(lambda: server.connected, "the connection", seconds=120)
    return client


def reported(server: RendezvousServer) -> list[NodeReport]:
    until(lambda: server.reports, "the report", seconds=120)
    return server.reports


def test_a_worker_node_reports_its_problem(file: Path, server: RendezvousServer) -> None:
    client = connected(file, server)
    assert server.connected == {"n2"}
    assert server.reports == []
    client.report(REPORT)
    assert reported(server) == [REPORT]
    assert not client.over.is_set()


def test_a_worker_node_learns_where_ray_is_whether_it_comes_early_or_late(file: Path, server: RendezvousServer) -> None:
    early = connected(file, server)
    server.announce_ray(RAY_ADDRESS)
    late = RendezvousClient(wait_for_rendezvous(file, timeout_s=60), "n3")
    assert early.wait_for_ray() == late.wait_for_ray() == RAY_ADDRESS


@pytest.mark.parametrize("after_a_report", [False, True])
def test_a_launcher_that_dies_before_its_report_is_reported_as_lost(
    file: Path, server: RendezvousServer, after_a_report: bool
) -> None:
    client = connected(file, server)
    if after_a_report:
        client.report(REPORT)
        reported(server)
    client._connection.shutdown(socket.SHUT_RDWR)  # as the kernel does for a process that was killed
    [report] = reported(server)
    assert report.cause == ("mistake" if after_a_report else "lost")
    assert after_a_report or "n2: its launcher ended before it was ready" in str(report.problem)


def test_a_worker_node_hears_that_the_job_is_over(file: Path, server: RendezvousServer) -> None:
    client = connected(file, server)
    for _ in range(3):  # what the head node has not read must not reset the connection
        client.report(REPORT)
    server.close()
    assert client.over.wait(60)
    assert not client.head_lost
    assert client.wait_for_ray() is None
    with pytest.raises(RendezvousError, match="has ended"):
        wait_for_rendezvous(file, timeout_s=60)


def test_a_connection_that_ends_without_a_word_means_that_the_head_node_is_lost(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = RendezvousClient(Rendezvous("127.0.0.1", listener.getsockname()[1], "token"), "n2")
        listener.accept()[0].close()
    assert client.over.wait(60)
    assert client.head_lost
    assert client.wait_for_ray() is None


@pytest.mark.parametrize(
    "line",
    [
        json.dumps({"token": "guessed", "host": "stranger"}),
        json.dumps({"host": "stranger"}),
        json.dumps(["token"]),
        "GET / HTTP/1.1",
        "",
    ],
)
def test_a_connection_without_the_token_is_ignored(file: Path, server: RendezvousServer, line: str) -> None:
    rendezvous = wait_for_rendezvous(file, timeout_s=60)
    with socket.create_connection((rendezvous.host, rendezvous.port)) as stranger:
        stranger.sendall(f"{line}\n".encode())
        assert stranger.recv(1) == b"", "it learns nothing"
        connected(file, server).report(REPORT)
    assert reported(server) == [REPORT]


def test_nobody_else_can_read_the_token(file: Path, server: RendezvousServer) -> None:
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_nobody_waits_for_a_cancelled_rendezvous(file: Path) -> None:
    cancel_rendezvous(file)
    with pytest.raises(RendezvousError, match="the head node could not start"):
        wait_for_rendezvous(file, timeout_s=60)


def test_a_head_node_that_does_not_come_is_waited_for_only_so_long(file: Path) -> None:
    with pytest.raises(RendezvousError, match=rf"did not write {file} within 0 s"):
        wait_for_rendezvous(file, timeout_s=0.1)


def test_a_head_node_that_cannot_be_reached_is_an_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(RendezvousError, match=r"the head node at 127\.0\.0\.1 cannot be reached"):
        RendezvousClient(Rendezvous("127.0.0.1", port, "token"), "n2")


def test_a_folder_that_this_node_does_not_see_ends_the_wait_at_once(tmp_path: Path) -> None:
    with pytest.raises(RendezvousError, match="not visible on this node"):
        wait_for_rendezvous(tmp_path / "elsewhere" / "rendezvous.json", timeout_s=60)
