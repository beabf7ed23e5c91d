"""What SLURM granted to this node of the job, read from the environment that `srun` sets."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from reproduce.errors import UserError
from slurm import queries

RAY_MEMORY_SHARE = 0.8  # the rest of the granted memory is for Ray itself, the page cache and `deeper run`


class NoAllocationError(UserError):
    """This process was not started by `srun`; the message says how to start it."""


@dataclass(frozen=True)
class Allocation:
    """One node's share of a job."""

    job: str
    """Id of the job; each element of an array has an id of its own."""
    queue_id: str
    """Id for `scontrol`: ARRAY_ELEMENT for an element of an array, since its plain id may stand for the whole array."""
    restarts: int
    """How often the job has been requeued."""
    rank: int
    """Rank of this node in the job; 0 is the head node, which also runs the batch script."""
    hosts: tuple[str, ...]
    """Host names of all nodes of the job, by rank."""
    cpus: int
    """CPUs that were granted on this node."""
    gpus: int
    """GPUs that were granted on this node."""
    memory_bytes: int | None
    """Memory for Ray's tasks on this node; None if SLURM does not limit memory."""

    @property
    def host(self) -> str:
        """Name of this node."""
        return self.hosts[self.rank]

    @property
    def peers(self) -> list[str]:
        """Names of the other nodes."""
        return [name for name in self.hosts if name != self.host]


def read_allocation(environment: Mapping[str, str] = os.environ) -> Allocation:
    """Read what SLURM granted to this task of a job step with one task per node.

    Args:
        environment: Environment variables of the task.

    Raises:
        NoAllocationError: The variables of a job step are not set.
        SlurmError: SLURM does not expand the abbreviated list of nodes.
    """
    try:
        job, rank, nodes = (environment[f"SLURM_{name}"] for name in ("JOB_ID", "PROCID", "STEP_NODELIST"))
        cpus = environment.get("SLURM_CPUS_PER_TASK") or environment["SLURM_CPUS_ON_NODE"]
    except KeyError as missing:
        raise NoAllocationError(
            f"{missing.args[0]}: not set; the launcher is started by srun, in the script that `deeper slurm render` "
            "prints"
        ) from None
    array = environment.get("SLURM_ARRAY_JOB_ID")
    # Without a grant of GPUs the variable lists those of the machine, if it is set at all.
    devices = environment.get("CUDA_VISIBLE_DEVICES", "") if "SLURM_GPUS_ON_NODE" in environment else ""
    memory_mib = environment.get("SLURM_MEM_PER_NODE")
    return Allocation(
        job=job,
        queue_id=f"{array}_{environment['SLURM_ARRAY_TASK_ID']}" if array else job,
        restarts=int(environment.get("SLURM_RESTART_COUNT", 0)),
        rank=int(rank),
        hosts=expand_node_list(nodes),
        cpus=int(cpus),
        gpus=len([device for device in devices.split(",") if device]),
        memory_bytes=int(int(memory_mib) * 2**20 * RAY_MEMORY_SHARE) if memory_mib else None,
    )


def expand_node_list(nodes: str) -> tuple[str, ...]:
    """Expand a list of nodes such as `n[1-3,7],login`.

    SLURM is asked only if the list is abbreviated.

    Raises:
        SlurmError: SLURM does not answer.
    """
    if "[" not in nodes:
        return tuple(nodes.split(","))
    return tuple(queries.run_command("scontrol", "show", "hostnames", nodes).split())
