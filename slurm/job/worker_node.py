"""A worker node of a job: it takes part in the job's Ray cluster until the head node announces the end of the job."""

from __future__ import annotations

import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass

from reproduce.errors import UserError
from slurm.job.config import LauncherConfig
from slurm.job.log import log, one_line
from slurm.job.node.allocation import Allocation
from slurm.job.node.network import NetworkAddress, find_address
from slurm.job.node.ray_node import START_TIMEOUT_S, RayNode, start_ray_node
from slurm.job.node.staging import prepare_data_unless
from slurm.job.rendezvous import (
    REPORT_TIMEOUT_S,
    Cause,
    NodeReport,
    RendezvousClient,
    RendezvousError,
    rendezvous_file,
    wait_for_rendezvous,
)
from slurm.job.termination import ENDED_BY_SLURM, termination_reason

POLL_S = 0.5
START_POLL_S = 0.1  # of a file on the node's own disk, for which the whole job waits
MOST_FAILED_STARTS = 3  # of Ray, one after the other
REQUEUE_TRIES, REQUEUE_POLL_S = 12, 10.0
MOST_LOSSES = 10  # of a Ray that was up; a node that Ray leaves more often is not fit for it


def run_worker_node(allocation: Allocation, config: LauncherConfig) -> int:
    """Take part in a job until it is over.

    This makes the process ignore SIGTERM, since the head node decides when the job ends. It must be called in the main
    thread.

    Args:
        allocation: The resources that SLURM granted on this node.
        config: Settings of the launcher.

    Returns:
        0, even if this node could not take part: `srun` returns the highest exit code of all nodes, which should be
        that of the head node.
    """
    signal.signal(signal.SIGTERM, lambda *_: None)  # the head node decides when the job ends
    WorkerNode(allocation, config).run()
    return 0


@dataclass(frozen=True)
class WorkerNode:
    """A worker node of a job: any node but the head node."""

    allocation: Allocation
    """The resources that SLURM granted on this node."""
    config: LauncherConfig
    """Settings of the launcher."""
    start_ray: Callable[..., RayNode] = start_ray_node
    """Starts Ray on this node. Tests replace it by a double."""
    find_reason: Callable[[Allocation], str] = termination_reason
    """Finds out why SLURM ends a job. Tests replace it by a double."""
    rendezvous_timeout_s: float = REPORT_TIMEOUT_S
    """Longest time to wait for the head node, in seconds."""

    def run(self) -> None:
        """Connect to the head node, prepare the data, and keep Ray running until the job is over.

        If this node cannot take part, the head node is told, and if it cannot be reached, this is logged. If the head
        node is lost, the job is requeued, unless SLURM is ending or requeueing it already.
        """
        file = rendezvous_file(self.config.folder, self.allocation.job, self.allocation.restarts)
        try:
            rendezvous = wait_for_rendezvous(file, self.rendezvous_timeout_s)
            client = RendezvousClient(rendezvous, self.allocation.host)
        except RendezvousError as error:
            log(f"this node does not take part: {one_line(error)}")
            return
        try:
            own = find_address(rendezvous.host, self.config.interface)
            data = prepare_data_unless(self.config, client.over.is_set)
        except UserError as error:
            self._leave_out(client, "mistake", one_line(error))
        else:
            ray_address = client.wait_for_ray() if data else None
            if ray_address is not None:
                self._keep_ray_running(client, own, ray_address, str(data))
        client.over.wait()
        if client.head_lost:
            self._requeue_job()

    def _keep_ray_running(self, client: RendezvousClient, own: NetworkAddress, ray_address: str, data: str) -> None:
        """Run Ray, report once it has joined, and start it again whenever it ends, until the job is over.

        A node on which Ray does not come up again and again is left out. Ray is killed before this returns or raises.
        """
        failures = losses = 0
        while not client.over.is_set():
            ray = self.start_ray(
                self.allocation, own, head_address=ray_address, object_store_mib=self.config.object_store_mib
            )
            try:
                if self._is_up(ray, client):
                    if not losses:
                        client.report(NodeReport(self.allocation.host, data))
                    while ray.is_alive and not client.over.wait(POLL_S):
                        pass
                    failures, losses = 0, losses + 1
                else:
                    failures += 1
                if client.over.is_set():
                    return
                last_words = ray.last_words
            finally:
                ray.kill()
            if failures == MOST_FAILED_STARTS:
                self._leave_out(client, "ray", f"Ray does not come up on this node: {last_words}")
                return
            if losses > MOST_LOSSES:
                self._leave_out(client, "ray", f"Ray has ended {losses} times on this node: {last_words}")
                return
            log(f"Ray has ended, starting it again: {last_words}")

    def _is_up(self, ray: RayNode, client: RendezvousClient) -> bool:
        """Wait until Ray has joined; return whether it has before it ended, took too long, or the job was over."""
        deadline = time.monotonic() + START_TIMEOUT_S
        while not ray.is_up:
            if not ray.is_alive or time.monotonic() > deadline or client.over.wait(START_POLL_S):
                return False
        return True

    def _leave_out(self, client: RendezvousClient, cause: Cause, sentence: str) -> None:
        log(f"this node does not take part: {sentence}")
        problem = f"{self.allocation.host}: {sentence}"
        client.report(NodeReport(self.allocation.host, str(self.config.data), problem, cause))

    def _requeue_job(self) -> None:
        """Requeue a job whose head node is lost, unless SLURM is ending or requeueing the job.

        SLURM keeps a job without its head node alive (--no-kill), and nothing else would end it. `scontrol requeue` of
        a job that SLURM is ending would undo the user's scancel.
        """
        if self.find_reason(self.allocation) in ENDED_BY_SLURM:
            return
        log(f"the head node, {self.allocation.hosts[0]}, is lost; requeueing the job")
        if shutil.which("scontrol") is None:
            log("no scontrol on PATH, such as in a container without SLURM's commands; submit again to continue")
            return
        for _ in range(REQUEUE_TRIES):
            if subprocess.run(["scontrol", "requeue", self.allocation.queue_id], check=False).returncode == 0:
                return
            time.sleep(REQUEUE_POLL_S)  # the controller may be away as well, for example to restart
