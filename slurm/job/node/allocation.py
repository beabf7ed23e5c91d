"""Reads from the environment that `srun` sets which resources SLURM granted to this job on this node."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from reproduce.errors import UserError

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
    """Expand a list of nodes such as `n[1-3,07],login` to the names of the nodes, in the same order.

    `scontrol show hostnames` does the same, but a container on a node need not have SLURM's commands.
    """
    entries = re.findall(r"(?:[^,\[]|\[[^\]]*\])+", nodes)
    return tuple(name for entry in entries for name in _expand(entry))


def _expand(entry: str) -> Iterator[str]:
    """Yield the names of one entry; of several ranges, as in `rack[1-2]n[1-4]`, the last one changes fastest."""
    before, bracket, rest = entry.partition("[")
    if not bracket:
        yield entry
        return
    ranges, _, after = rest.partition("]")
    for part in ranges.split(","):
        first, _, last = part.partition("-")
        for number in range(int(first), int(last or first) + 1):
            for end in _expand(after):
                yield f"{before}{number:0{len(first)}d}{end}"
