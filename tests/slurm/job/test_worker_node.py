"""A worker node of a job: it reports, keeps Ray running, and ends with the job or with the head node's loss."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from cluster import until

from slurm.job import worker_node
from slurm.job.node import staging
from slurm.job.rendezvous import NodeReport, RendezvousServer, cancel_rendezvous
from slurm.job.worker_node import WorkerNode

if TYPE_CHECKING:
    from conftest import RayDouble, Submission


@pytest.fixture
def server(submission: Submission) -> Iterator[RendezvousServer]:
    """The head node."""
    started = RendezvousServer("127.0.0.1", submission.rendezvous_file)
    started.announce_ray("127.0.0.1:33775")
    yield started
    started.close()


@pytest.fixture
def scontrol(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], str]:
    """What `scontrol` was called with."""
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "scontrol"
    program.write_text(f'#!/bin/sh\necho "$@" >>{tmp_path}/calls\n', encoding="utf-8")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    calls = tmp_path / "calls"
    return lambda: calls.read_text(encoding="utf-8") if calls.exists() else ""


def worker(submission: Submission, ray: RayDouble, reason: str = "terminated", **changes: Any) -> WorkerNode:
    config = replace(submission.config, **changes)
    return WorkerNode(submission.allocation(rank=1, nodes=2), config, ray.start, lambda _: reason, 30)  # type: ignore[arg-type]


def started(node: WorkerNode) -> threading.Thread:
    thread = threading.Thread(target=node.run, daemon=True)
    thread.start()
    return thread


def ended(thread: threading.Thread) -> None:
    thread.join(timeout=120)
    assert not thread.is_alive()


def test_a_worker_node_runs_ray_until_the_job_is_over(
    submission: Submission, ray: RayDouble, server: RendezvousServer
) -> None:
    thread = started(worker(submission, ray))
    until(lambda: server.reports, "the report", seconds=120)
    assert server.reports == [NodeReport("n2", str(submission.config.data))]
    assert ray.arguments["head_address"] == "127.0.0.1:33775"
    assert not ray.killed
    server.close()
    ended(thread)
    assert ray.killed


def test_a_worker_node_that_copies_data_stops_when_the_job_is_over(
    submission: Submission, ray: RayDouble, server: RendezvousServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    copying = threading.Event()
    monkeypatch.setattr(staging, "prepare_data", lambda config: copying.set() or threading.Event().wait(600))  # type: ignore[func-returns-value]
    thread = started(worker(submission, ray))
    assert copying.wait(60)
    server.close()
    ended(thread)
    assert not ray.arguments, "Ray was not started"


def test_ray_is_started_again_when_it_ends(
    submission: Submission, server: RendezvousServer, ray: RayDouble, capsys: pytest.CaptureFixture[str]
) -> None:
    rays = [type(ray)() for _ in range(2)]
    waiting = list(rays)
    node = replace(worker(submission, ray), start_ray=lambda *_, **__: waiting.pop(0))  # type: ignore[arg-type, return-value]
    thread = started(node)
    until(lambda: server.reports, "the report", seconds=120)
    rays[0].is_alive = False
    until(lambda: not waiting, "the second start", seconds=120)
    server.close()
    ended(thread)
    assert rays[0].killed
    assert rays[1].killed
    assert "Ray has ended, starting it again" in capsys.readouterr().err


def test_a_worker_node_without_data_reports_that_and_starts_no_ray(
    submission: Submission, ray: RayDouble, server: RendezvousServer, tmp_path: Path
) -> None:
    thread = started(worker(submission, ray, data=tmp_path / "nothing"))
    until(lambda: server.reports, "the report", seconds=120)
    [report] = server.reports
    assert str(report.problem).startswith("n2: ")
    assert "nothing" in str(report.problem)
    server.close()
    ended(thread)
    assert ray.arguments == {}


def test_a_worker_node_reports_only_once_its_ray_has_joined(
    submission: Submission, ray: RayDouble, server: RendezvousServer
) -> None:
    ray.listens = False
    thread = started(worker(submission, ray))
    until(lambda: ray.arguments, "the start of Ray", seconds=120)
    assert server.connected == {"n2"}
    assert server.reports == []
    ray.listens = True
    until(lambda: server.reports, "the report", seconds=120)
    server.close()
    ended(thread)


def test_a_ray_that_never_comes_up_is_tried_a_few_times_and_reported(
    submission: Submission, ray: RayDouble, server: RendezvousServer
) -> None:
    starts: list[RayDouble] = []

    def start(*_: Any, **__: Any) -> RayDouble:
        starts.append(type(ray)(listens=False, is_alive=False, last_words="InvalidAuthToken"))
        return starts[-1]

    thread = started(replace(worker(submission, ray), start_ray=start))  # type: ignore[arg-type]
    until(lambda: server.reports, "the report", seconds=120)
    [report] = server.reports
    assert (report.cause, report.problem) == ("ray", "n2: Ray does not come up on this node: InvalidAuthToken")
    assert len(starts) == 3
    server.close()
    ended(thread)
    assert all(one.killed for one in starts)


def test_a_network_interface_that_a_worker_node_does_not_have_is_reported_and_logged_without_its_name_twice(
    submission: Submission, ray: RayDouble, server: RendezvousServer, capsys: pytest.CaptureFixture[str]
) -> None:
    thread = started(worker(submission, ray, interface="ib7"))
    until(lambda: server.reports, "the report", seconds=120)
    assert str(server.reports[0].problem).startswith("n2: interface: 'ib7' has no IPv4 address")
    server.close()
    ended(thread)
    said = capsys.readouterr().err
    assert "this node does not take part: interface: 'ib7'" in said, "the log begins every line with the node's name"
    assert "n2: " not in said


def lose_head(server: RendezvousServer) -> None:
    """End the connections without a word, as a host that dies does."""
    for connection in server._connections:
        connection.shutdown(2)


def test_a_job_that_has_lost_its_head_node_is_requeued(
    submission: Submission, ray: RayDouble, server: RendezvousServer, scontrol: Callable[[], str]
) -> None:
    thread = started(worker(submission, ray))
    until(lambda: server.reports, "the report", seconds=120)
    lose_head(server)
    ended(thread)
    assert scontrol() == "requeue 17\n"
    assert ray.killed


def test_a_requeue_is_tried_again_while_the_controller_does_not_answer(
    submission: Submission,
    ray: RayDouble,
    tmp_path: Path,
    scontrol: Callable[[], str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(worker_node, "REQUEUE_POLL_S", 0.0)
    program = tmp_path / "bin" / "scontrol"
    away = f'if [ "$(wc -l <{tmp_path}/calls)" -lt 3 ]; then exit 1; fi\n'
    program.write_text(program.read_text(encoding="utf-8") + away, encoding="utf-8")
    worker(submission, ray)._requeue_job()
    assert scontrol() == "requeue 17\n" * 3


@pytest.mark.parametrize("reason", ["cancelled", "requeued by SLURM"])
def test_a_job_that_slurm_ends_is_not_requeued(
    submission: Submission, ray: RayDouble, server: RendezvousServer, scontrol: Callable[[], str], reason: str
) -> None:
    thread = started(worker(submission, ray, reason))
    until(lambda: server.reports, "the report", seconds=120)
    lose_head(server)
    ended(thread)
    assert scontrol() == ""


def test_a_head_node_that_could_not_start_is_not_waited_for(
    submission: Submission, ray: RayDouble, capsys: pytest.CaptureFixture[str]
) -> None:
    cancel_rendezvous(submission.rendezvous_file)
    worker(submission, ray).run()
    assert "this node does not take part: the head node could not start" in capsys.readouterr().err
    assert ray.arguments == {}


def test_a_bug_is_raised_and_ray_ended(submission: Submission, ray: RayDouble, server: RendezvousServer) -> None:
    class BrokenRay(type(ray)):  # type: ignore[misc]
        @property
        def is_alive(self) -> bool:
            raise ValueError("of the launcher's own")

        @is_alive.setter
        def is_alive(self, _: bool) -> None:
            pass

    broken = BrokenRay()
    with pytest.raises(ValueError, match="of the launcher's own"):
        worker(submission, broken).run()
    assert broken.killed
