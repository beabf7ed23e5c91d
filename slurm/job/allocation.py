"""What SLURM granted to this node of the job, and where the node is on the network. Read inside `srun`."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address

import psutil

from reproduce.errors import UserError
from slurm import queries
from slurm.queries import SlurmError

MEMORY_SHARE = 0.8  # of the granted memory, for Ray's tasks; the rest is for Ray itself, the page cache and the driver
LOOPBACK = "127.0.0.1"


class NoAllocation(UserError):  # noqa: N818 - reads as a state
    """This process is not inside `srun`; the message says how to start it."""


@dataclass(frozen=True)
class Allocation:
    """One node's share of a job."""

    job: str
    name: str
    """What the queue calls it: an array's element is ARRAY_ELEMENT, since a plain id may stand for the whole array."""
    restarts: int
    rank: int
    """Of this node in the job, from 0; node 0 also runs the batch script."""
    hosts: tuple[str, ...]
    """All nodes of the job, by rank."""
    cpus: int
    gpus: int
    memory_bytes: int | None
    """None where SLURM does not limit it."""

    @property
    def host(self) -> str:
        return self.hosts[self.rank]


def allocation(environment: Mapping[str, str] = os.environ) -> Allocation:
    """What SLURM tells a task of a step with one task a node. Raises `NoAllocation`."""
    try:
        job, rank, nodes = (environment[f"SLURM_{name}"] for name in ("JOB_ID", "PROCID", "STEP_NODELIST"))
    except KeyError as missing:
        raise NoAllocation(
            f"{str(missing)[1:-1]}: not set; the launcher is started by srun, inside the script that "
            "`deeper slurm render` prints"
        ) from None
    devices = environment.get("CUDA_VISIBLE_DEVICES", "") if "SLURM_GPUS_ON_NODE" in environment else ""
    memory = environment.get("SLURM_MEM_PER_NODE")
    return Allocation(
        job=job,
        name=f"{array}_{environment['SLURM_ARRAY_TASK_ID']}"
        if (array := environment.get("SLURM_ARRAY_JOB_ID"))
        else job,
        restarts=int(environment.get("SLURM_RESTART_COUNT", 0)),
        rank=int(rank),
        hosts=expand(nodes),
        cpus=int(environment.get("SLURM_CPUS_PER_TASK") or environment["SLURM_CPUS_ON_NODE"]),
        gpus=len([device for device in devices.split(",") if device]),
        memory_bytes=int(int(memory) * 2**20 * MEMORY_SHARE) if memory else None,
    )


def expand(nodes: str) -> tuple[str, ...]:
    """Names of a node list such as n[1-3,7],login: asked of SLURM only where it is abbreviated. Raises `SlurmError`."""
    if "[" not in nodes:
        return tuple(nodes.split(","))
    return tuple(queries.ask("scontrol", "show", "hostnames", nodes).split())


# --- network ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Place:
    """An address of this node and the interface that has it."""

    address: str
    interface: str


def place(peer: str | None, interface: str | None = None) -> Place:
    """Where this node is reached: on `interface`, else on the one that leads to `peer`; no peer: loopback.

    Found from the route, since a host's own name may stand for 127.0.1.1 (Debian) or for a management network.
    Raises `ValueError` naming the interfaces that there are.
    """
    addresses = {
        name: [entry.address for entry in entries if entry.family == socket.AF_INET]
        for name, entries in psutil.net_if_addrs().items()
    }
    if interface is not None:
        if not addresses.get(interface):
            there = ", ".join(sorted(name for name, entries in addresses.items() if entries))
            raise UserError(f"interface: {interface!r} has no IPv4 address on {socket.gethostname()}; {there} have")
        return Place(addresses[interface][0], interface)
    own = LOOPBACK if peer is None else _address_towards(peer)
    if IPv4Address(own).is_loopback:
        return Place(own, "lo")
    return Place(own, next(name for name, entries in addresses.items() if own in entries))


def _address_towards(peer: str) -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((peer, 9))  # sends nothing: the kernel only looks up the route
        except OSError as error:
            raise UserError(f"interface: no way from {socket.gethostname()} to {peer}: {error}") from error
        return str(probe.getsockname()[0])


# --- why a signal came -----------------------------------------------------------------------------

CANCELLED, PREEMPTED, TIME_LIMIT, REQUEUED = "cancelled", "preempted", "time limit", "requeued by SLURM"
TERMINATED = "terminated"  # by someone else than SLURM
ENDING = (CANCELLED, REQUEUED)  # the job ends by SLURM's hand, and asking for a requeue would only undo that


def why_terminated(job: str, restarts: int) -> str:
    """What SIGTERM means to a job that had been restarted so often, by SLURM's own word for its state."""
    try:
        return reason_of(queries.ask("scontrol", "show", "job", "-o", job), restarts)
    except SlurmError:
        return TERMINATED


def reason_of(job: str, restarts: int) -> str:
    """The reason in a line of `scontrol show job -o`, as SLURM 22.05 shows it within milliseconds of the signal.

    A preemption without grace time looks like any other requeue.
    """
    fields = dict(re.findall(r"(\w+)=(\S*)", job))
    if fields.get("PreemptTime", "None") != "None":
        return PREEMPTED
    if fields.get("Reason") == "TimeLimit":
        return TIME_LIMIT
    if int(fields.get("Restarts", 0)) > restarts:
        return REQUEUED
    return CANCELLED if fields.get("JobState") in ("COMPLETING", "CANCELLED") else TERMINATED
