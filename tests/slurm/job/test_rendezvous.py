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

REPORT = NodeReport("n2", "/data", "n2: no data")
RAY_ADDRESS = "127.0.0.1:6379"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return rendezvous_file(tmp_path, "17", 0)


@pytest.fixture
def server(file: Path) -> Iterator[RendezvousServer]:
    started = RendezvousServer("127.0.0.1", RAY_ADDRESS, file)
    yield started
    started.close()


def connected(file: Path, server: RendezvousServer) -> RendezvousClient:
    """A client whose report the server has received."""
    client = RendezvousClient(wait_for_rendezvous(file, timeout_s=60), REPORT)
    until(lambda: server.reports, "the report", seconds=120)
    return client


def test_a_worker_node_learns_where_ray_is_and_reports_its_problem(file: Path, server: RendezvousServer) -> None:
    client = connected(file, server)
    assert wait_for_rendezvous(file, timeout_s=60).ray_address == RAY_ADDRESS
    assert server.reports == [REPORT]
    assert not client.over.is_set()


def test_a_worker_node_hears_that_the_job_is_over(file: Path, server: RendezvousServer) -> None:
    client = connected(file, server)
    server.close()
    assert client.over.wait(30)
    assert not client.head_lost
    assert not file.exists()


def test_a_connection_that_ends_without_a_word_means_that_the_head_node_is_lost(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = RendezvousClient(Rendezvous("127.0.0.1", listener.getsockname()[1], RAY_ADDRESS, "token"), REPORT)
        listener.accept()[0].close()
    assert client.over.wait(30)
    assert client.head_lost


@pytest.mark.parametrize(
    "line",
    [
        json.dumps({"token": "guessed", "host": "stranger", "data": "/data", "problem": None}),
        json.dumps({"host": "stranger"}),
        json.dumps(["token"]),
        "GET / HTTP/1.1",
        "",
    ],
)
def test_a_report_without_the_token_is_ignored(file: Path, server: RendezvousServer, line: str) -> None:
    rendezvous = wait_for_rendezvous(file, timeout_s=60)
    with socket.create_connection((rendezvous.host, rendezvous.port)) as stranger:
        stranger.sendall(f"{line}\n".encode())
        connected(file, server)
    assert server.reports == [REPORT]


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
        RendezvousClient(Rendezvous("127.0.0.1", port, RAY_ADDRESS, "token"), REPORT)


def test_a_folder_that_this_node_does_not_see_ends_the_wait_at_once(tmp_path: Path) -> None:
    with pytest.raises(RendezvousError, match="not visible on this node"):
        wait_for_rendezvous(tmp_path / "elsewhere" / "rendezvous.json", timeout_s=60)
