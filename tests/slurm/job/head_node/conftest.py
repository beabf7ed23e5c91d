"""A head node with doubles of what it starts, and worker nodes that report to it."""

from __future__ import annotations

import socket
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

import pytest

from slurm.job import head_node
from slurm.job.head_node import HeadNode
from slurm.job.rendezvous import NodeReport, RendezvousClient, wait_for_rendezvous
from slurm.job.termination import StopRequest

if TYPE_CHECKING:
    from tests.slurm.job.conftest import DriverDouble, RayDouble, Submission


class MakeHead(Protocol):
    """Makes the head node of a job; further changes are those of its settings."""

    def __call__(
        self, *, nodes: int = 1, restarts: int = 0, reason: str = "terminated", **changes: Any
    ) -> HeadNode: ...


@pytest.fixture
def head(submission: Submission, ray: RayDouble, driver: DriverDouble) -> MakeHead:
    def make(*, nodes: int = 1, restarts: int = 0, reason: str = "terminated", **changes: Any) -> HeadNode:
        config = replace(submission.config, **changes)
        stop = StopRequest(config.stop_file("17"), lambda: reason)
        allocation = submission.allocation(nodes=nodes, restarts=restarts)
        return HeadNode(allocation, config, stop, ray.start, driver.start)  # type: ignore[arg-type]

    return make


def join(submission: Submission, *reports: NodeReport) -> list[RendezvousClient]:
    """Connect as worker nodes; those with a cause of `lost` then end without a report."""
    [file] = submission.config.folder.glob("rendezvous-17-*.json")
    rendezvous = wait_for_rendezvous(file, timeout_s=120)
    clients = [RendezvousClient(rendezvous, report.host) for report in reports]
    for client, report in zip(clients, reports, strict=True):
        if report.cause == "lost":
            client._connection.shutdown(socket.SHUT_RDWR)
        else:
            client.report(report)
    return clients


@pytest.fixture
def worker_reports(monkeypatch: pytest.MonkeyPatch, submission: Submission) -> Any:
    """Lets worker nodes report as soon as the head node's server is up."""
    clients: list[RendezvousClient] = []

    def let_report(*reports: NodeReport) -> list[RendezvousClient]:
        real = head_node.RendezvousServer

        def serve(*arguments: Any) -> Any:
            server = real(*arguments)
            clients.extend(join(submission, *reports))
            return server

        monkeypatch.setattr(head_node, "RendezvousServer", serve)
        return clients

    return let_report
