"""Reads from the environment that `srun` sets which resources SLURM granted to this job on this node."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from reproduce.errors import UserError
from slurm import queries

RAY_MEMORY_SHARE = 0.8  # the rest of the granted memory is for Ray itself, the page cache and `deeper run`


class NoAllocationError(UserError):
    """Raised if this process was not started by `srun`. The message names the script that starts it."""


@dataclass(frozen=True)
class Allocation:
    """A SLURM job as one of its nodes sees it: the job's ids and hosts, and the resources granted on this node."""

    job: str
    """Id of the job. Each element of a job array has an id of its own."""
    queue_id: str
    """Id of the job for `scontrol`. For an element of a job array it is ARRAY_ELEMENT, e.g. 17_3, since SLURM may take
    the element's plain id for the whole array."""
    restarts: int
    """Number of times that the job has been requeued."""
    rank: int
    """Rank of this node in the job. Rank 0 is the head node, which also runs the batch script."""
    hosts: tuple[str, ...]
    """Names of all nodes of the job, ordered by rank."""
    cpus: int
    """Number of CPUs that were granted on this node."""
    gpus: int
    """Number of GPUs that were granted on this node."""
    memory_bytes: int | None
    """Bytes of memory for Ray's tasks on this node: the share `RAY_MEMORY_SHARE` of the granted memory. None if SLURM
    sets no limit of memory per node."""

    @property
    def host(self) -> str:
        """Name of this node."""
        return self.hosts[self.rank]

    @property
    def peers(self) -> list[str]:
        """Names of the job's other nodes, ordered by rank."""
        return [name for name in self.hosts if name != self.host]


def read_allocation(environment: Mapping[str, str] = os.environ) -> Allocation:
    """Read this node's allocation from the environment of a task, in a job step with one task per node.

    Args:
        environment: Environment variables of the task.

    Raises:
        NoAllocationError: A variable that `srun` sets is missing.
        SlurmError: `scontrol`, which expands an abbreviated list of nodes, fails or does not answer.
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
    """Expand a list of nodes such as `n[1-3,7],login` to the names of the nodes.

    `scontrol` is called only if the list is abbreviated with brackets.

    Raises:
        SlurmError: `scontrol` fails or does not answer.
    """
    if "[" not in nodes:
        return tuple(nodes.split(","))
    return tuple(queries.run_command("scontrol", "show", "hostnames", nodes).split())
