"""Whether a cluster can do what a profile asks for: told before the queue is entered.

Each `Misfit` names the profile's field, its value and what would be valid. All functions but `check_submission` work
on what `slurm.queries` has found.
"""

from __future__ import annotations

import difflib
import math
import shutil
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.machine.filesystems import filesystem
from reproduce.spec import ResourcesConfig
from slurm import queries
from slurm.profile import Profile
from slurm.queries import Partition, SlurmError

NODE_LOCAL = (Path("/tmp"), Path("/var/tmp"), Path("/dev/shm"), Path("/run"))


@dataclass(frozen=True)
class Misfit:
    """Something that the cluster does not offer."""

    field: str
    """Of the profile, or an option of the command."""
    found: str
    """The value and what is wrong with it."""
    valid: str

    def __str__(self) -> str:
        return f"{self.field}: {self.found}; {self.valid}"


def check_submission(profile: Profile, resources: ResourcesConfig, *, records: Path, data: Path) -> None:
    """Raises `SlurmError`, one line a mistake, where the cluster would not start the job or a run would not fit it."""
    if not shutil.which("sbatch"):
        raise SlurmError(
            "SLURM: no sbatch on PATH; submit on a login node of the cluster, or take the scripts there: "
            "deeper slurm render EXPERIMENT --out DIR"
        )
    partitions = queries.partitions()
    misfits = [
        *partition_misfits(profile, partitions),
        *world_size_misfits(profile, resources),
        *path_misfits(profile, partitions, records=records, data=data),
    ]
    if misfits:
        raise SlurmError("\n".join(map(str, misfits)))


def asked_partitions(profile: Profile, partitions: Sequence[Partition]) -> list[Partition]:
    """The partitions that a job of the profile may start in, as far as the cluster has them."""
    if profile.partition is None:
        return [partition for partition in partitions if partition.default]
    names = profile.partition.split(",")
    return [partition for partition in partitions if partition.name in names]


def partition_misfits(profile: Profile, partitions: Sequence[Partition]) -> list[Misfit]:
    """What the profile asks of its partitions that they do not have."""
    names = [partition.name for partition in partitions]
    asked = asked_partitions(profile, partitions)
    if profile.partition is None and not asked:
        return [Misfit("partition", "none is given and the cluster has no default", f"it has {', '.join(names)}")]
    unknown = [name for name in (profile.partition or "").split(",") if name and name not in names]
    return [_unknown(name, names) for name in unknown] + [
        misfit for partition in asked for misfit in _hardware_misfits(profile, partition)
    ]


def world_size_misfits(profile: Profile, resources: ResourcesConfig) -> list[Misfit]:
    """Whether the nodes of a job hold at least one run, counted as `bench.orchestration.cluster.capacity` does."""
    wants: list[tuple[str, int, float, str]] = [
        ("cpus_per_node", profile.cpus_per_node, resources.cpus_per_worker, "CPUs")
    ]
    if resources.gpus_per_worker:
        wants.append(("gpus_per_node", profile.gpus_per_node, resources.gpus_per_worker, "GPUs"))
    misfits = [
        Misfit(
            field,
            f"{has}, and a worker of this experiment takes {each:g} {unit}",
            f"ask for at least {math.ceil(each)}",
        )
        for field, has, each, unit in wants
        if has < each
    ]
    if misfits:
        return misfits
    on_a_node = resources.workers_within(profile.cpus_per_node, profile.gpus_per_node)
    if on_a_node * profile.nodes >= resources.workers:
        return []
    each = " and ".join(f"{each:g} {unit}" for _, _, each, unit in wants)
    return [
        Misfit(
            "nodes",
            f"{profile.nodes} with room for {on_a_node} workers of {each} hold {on_a_node * profile.nodes} workers, "
            f"and a run has {resources.workers} (resources.workers)",
            f"nodes: {math.ceil(resources.workers / on_a_node)} would do",
        )
    ]


def path_misfits(profile: Profile, partitions: Sequence[Partition], *, records: Path, data: Path) -> list[Misfit]:
    """Folders that compute nodes would not see, and records whose locks they would not see."""
    asked = asked_partitions(profile, partitions)
    if asked and all(_is_this_host(partition) for partition in asked):
        return []
    misfits = [
        Misfit(option, f"{path} lies on {place}, which other nodes do not see", "name a folder that all nodes share")
        for option, path in (("--records", records), ("--data", data))
        if (place := _node_local_place(path))
    ]
    lies_on = filesystem(records)
    if lies_on.is_network and lies_on.flock_reaches_other_hosts is False:
        found = f"{records} lies on {lies_on.kind}, mounted so that other hosts do not see its locks, which runs need"
        misfits.append(Misfit("--records", found, lies_on.locking_hint))
    return misfits


def slurm_time(seconds: int) -> str:
    """As SLURM writes it: 1-12:00:00, 01:30:00."""
    days, rest = divmod(seconds, 24 * 3600)
    clock = f"{rest // 3600:02d}:{rest // 60 % 60:02d}:{rest % 60:02d}"
    return f"{days}-{clock}" if days else clock


def _unknown(name: str, names: Sequence[str]) -> Misfit:
    close = difflib.get_close_matches(name, names, n=1)
    hint = f"; did you mean {close[0]}?" if close else ""
    return Misfit("partition", f"{name!r} is none of this cluster's", f"it has {', '.join(names)}{hint}")


def _hardware_misfits(profile: Profile, partition: Partition) -> list[Misfit]:
    if not partition.nodes:
        return [Misfit("partition", f"{partition.name} has no nodes", "name another (deeper doctor lists them)")]
    misfits = []
    if partition.max_seconds is not None and profile.seconds > partition.max_seconds:
        limit = slurm_time(partition.max_seconds)
        found = f"{profile.time} is over the limit of partition {partition.name}"
        misfits.append(Misfit("time", found, f"at most {limit}; what is not done by then is requeued and goes on"))
    lacking = [
        Misfit(field, f"{asked} {unit}, and no node of partition {partition.name} has so many", f"at most {most}")
        for field, asked, unit, most in (
            ("gpus_per_node", profile.gpus_per_node, "GPUs", max(kind.gpus for kind in partition.nodes)),
            ("cpus_per_node", profile.cpus_per_node, "CPUs", max(kind.cpus for kind in partition.nodes)),
            ("memory_gib", profile.memory_gib or 0, "GiB", max(kind.memory_mib for kind in partition.nodes) // 1024),
        )
        if asked > most
    ]
    if lacking:
        return misfits + lacking
    fitting = sum(
        kind.count
        for kind in partition.nodes
        if kind.gpus >= profile.gpus_per_node
        and kind.cpus >= profile.cpus_per_node
        and kind.memory_mib >= 1024 * (profile.memory_gib or 0)
    )
    if profile.nodes > fitting:
        found = f"{profile.nodes}, and partition {partition.name} has {fitting} with all that is asked of a node"
        valid = f"at most {fitting}" if fitting else f"ask less of a node; there are {describe_nodes(partition)}"
        misfits.append(Misfit("nodes", found, valid))
    return misfits


def describe_nodes(partition: Partition) -> str:
    """The nodes of a partition in words, kinds apart and states together."""
    counts: dict[str, int] = {}
    for kind in partition.nodes:
        gpus = f", {kind.gpus} GPUs" if kind.gpus else ""
        words = f"{kind.cpus} CPUs, {kind.memory_mib // 1024} GiB{gpus}"
        counts[words] = counts.get(words, 0) + kind.count
    return "; ".join(f"{count} x {words}" for words, count in counts.items())


def _is_this_host(partition: Partition) -> bool:
    return {kind.names for kind in partition.nodes} == {socket.gethostname().partition(".")[0]}


def _node_local_place(path: Path) -> str | None:
    """What keeps a path to this node, in words."""
    lies_on = filesystem(path)
    if lies_on.is_network:
        return None
    if lies_on.in_memory:
        return f"{lies_on.mount_point} ({lies_on.kind})"
    for place in NODE_LOCAL:
        # What is mounted below such a place was put there on purpose, and most likely everywhere.
        own_mount = lies_on.mount_point != place and lies_on.mount_point.is_relative_to(place)
        if path.resolve().is_relative_to(place) and not own_mount:
            return str(place)
    return None
