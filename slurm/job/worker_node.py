"""A worker node of a job: it takes part in the job's Ray cluster until the head node announces the end of the job."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Callable
from dataclasses import dataclass

from reproduce.errors import UserError
from slurm.job.config import LauncherConfig
from slurm.job.log import log, one_line
from slurm.job.node.allocation import Allocation
from slurm.job.node.network import NetworkAddress, find_address
from slurm.job.node.ray_node import RayNode, start_ray_node
from slurm.job.node.staging import STAGING_TIMEOUT_S, prepare_data
from slurm.job.rendezvous import (
    REPORT_TIMEOUT_S,
    NodeReport,
    Rendezvous,
    RendezvousClient,
    RendezvousError,
    rendezvous_file,
    wait_for_rendezvous,
)
from slurm.job.termination import ENDED_BY_SLURM, termination_reason

POLL_S = 0.5
MOST_RESTARTS = 10  # of Ray on a node; one that Ray leaves more often is not fit for it


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
    rendezvous_timeout_s: float = REPORT_TIMEOUT_S + STAGING_TIMEOUT_S
    """Longest time to wait for the head node, in seconds."""

    def run(self) -> None:
        """Prepare the data, report to the head node, and keep Ray running until the job is over.

        If this node cannot take part or cannot reach the head node, this is logged. If the head node is lost, the job
        is requeued, unless SLURM is ending or requeueing it already.
        """
        report = self._prepare()
        file = rendezvous_file(self.config.folder, self.allocation.job, self.allocation.restarts)
        try:
            rendezvous = wait_for_rendezvous(file, self.rendezvous_timeout_s)
            client = self._take_part(rendezvous, report)
        except (UserError, RendezvousError) as error:
            log(f"this node does not take part: {one_line(error)}")
            return
        if client.head_lost:
            self._requeue_job()

    def _prepare(self) -> NodeReport:
        """Prepare the data sets on this node and return its report, with a user's mistake as the problem."""
        try:
            return NodeReport(self.allocation.host, str(prepare_data(self.config)))
        except UserError as error:
            problem = f"{self.allocation.host}: {one_line(error)}"
            log(one_line(error))
            return NodeReport(self.allocation.host, str(self.config.data), problem)

    def _take_part(self, rendezvous: Rendezvous, report: NodeReport) -> RendezvousClient:
        """Run Ray, unless this node has a problem, and stay connected to the head node until the job is over.

        Ray is started again whenever it ends, and is killed before this returns or raises.
        """
        own = find_address(rendezvous.host, self.config.interface)
        ray = None if report.problem else self._start_ray(own, rendezvous)
        starts_left = MOST_RESTARTS
        try:
            client = RendezvousClient(rendezvous, report)
            while not client.over.wait(POLL_S):
                if ray is not None and not ray.is_alive:
                    log(f"Ray has ended, starting it again: {ray.last_words}")
                    ray.kill()
                    ray = None
                    if starts_left:
                        starts_left -= 1
                        ray = self._start_ray(own, rendezvous)
            return client
        finally:
            if ray is not None:
                ray.kill()

    def _start_ray(self, own: NetworkAddress, rendezvous: Rendezvous) -> RayNode:
        return self.start_ray(
            self.allocation,
            own,
            head_address=rendezvous.ray_address,
            object_store_mib=self.config.object_store_mib,
        )

    def _requeue_job(self) -> None:
        """Requeue a job whose head node is lost, unless SLURM is ending or requeueing the job.

        SLURM keeps a job without its head node alive (--no-kill), and nothing else would end it. `scontrol requeue` of
        a job that SLURM is ending would undo the user's scancel.
        """
        if self.find_reason(self.allocation) in ENDED_BY_SLURM:
            return
        log(f"the head node, {self.allocation.hosts[0]}, is lost; requeueing the job")
        subprocess.run(["scontrol", "requeue", self.allocation.queue_id], check=False)
