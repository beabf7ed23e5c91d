"""Checks, before a job is submitted, whether the cluster offers what a profile asks for.

Each `Mismatch` names the profile's field, its value and what would be valid. Only `check_submission` asks SLURM; the
other functions work on what `slurm.queries` has found.
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
from slurm.profile_fields import NodeResource, fields_with
from slurm.queries import Partition, SlurmError

NODE_LOCAL_FOLDERS = (Path("/tmp"), Path("/var/tmp"), Path("/dev/shm"), Path("/run"))


@dataclass(frozen=True)
class Mismatch:
    """Something that a profile asks for and the cluster does not offer."""

    field: str
    """Field of the profile, or option of the command."""
    found: str
    """The value and what is wrong with it."""
    valid: str
    """What would be valid."""

    def __str__(self) -> str:
        return f"{self.field}: {self.found}; {self.valid}"


def check_submission(profile: Profile, resources: ResourcesConfig, *, records: Path, data: Path) -> None:
    """Check that the cluster would start the job and that a run fits into it.

    Args:
        profile: What the job asks for.
        resources: What a run of the experiment takes.
        records: Folder of the records, which the nodes write.
        data: Folder of the prepared data sets, which the nodes read.

    Raises:
        SlurmError: Something does not fit, with one line for each mismatch; or there is no SLURM here.
    """
    if not shutil.which("sbatch"):
        raise SlurmError(
            "SLURM: no sbatch on PATH; submit on a login node of the cluster, or take the scripts there: "
            "deeper slurm render EXPERIMENT --output DIR"
        )
    partitions = queries.partitions()
    mismatches = [
        *partition_mismatches(profile, partitions),
        *world_size_mismatches(profile, resources),
        *path_mismatches(profile, partitions, records=records, data=data),
    ]
    if mismatches:
        raise SlurmError("\n".join(map(str, mismatches)))


def requested_partitions(profile: Profile, partitions: Sequence[Partition]) -> list[Partition]:
    """Return the partitions in which a job of the profile may start, as far as the cluster has them."""
    if profile.partition is None:
        return [partition for partition in partitions if partition.default]
    names = profile.partition.split(",")
    return [partition for partition in partitions if partition.name in names]


def partition_mismatches(profile: Profile, partitions: Sequence[Partition]) -> list[Mismatch]:
    """Find what the profile asks for and its partitions do not have."""
    names = [partition.name for partition in partitions]
    asked = requested_partitions(profile, partitions)
    if profile.partition is None and not asked:
        return [Mismatch("partition", "none is given, and the cluster has no default", f"it has {', '.join(names)}")]
    unknown = [name for name in (profile.partition or "").split(",") if name and name not in names]
    return [_unknown(name, names) for name in unknown] + [
        mismatch for partition in asked for mismatch in _hardware_mismatches(profile, partition)
    ]


def world_size_mismatches(profile: Profile, resources: ResourcesConfig) -> list[Mismatch]:
    """Check that the nodes of a job have room for at least one run.

    Workers are counted as `bench.orchestration.cluster.capacity` counts them.
    """
    wants: list[tuple[str, int, float, str]] = [
        ("cpus_per_node", profile.cpus_per_node, resources.cpus_per_worker, "CPUs")
    ]
    if resources.gpus_per_worker:
        wants.append(("gpus_per_node", profile.gpus_per_node, resources.gpus_per_worker, "GPUs"))
    mismatches = [
        Mismatch(
            field,
            f"{has}, but a worker of this experiment takes {each:g} {unit}",
            f"ask for at least {math.ceil(each)}",
        )
        for field, has, each, unit in wants
        if has < each
    ]
    if mismatches:
        return mismatches
    on_a_node = resources.workers_within(profile.cpus_per_node, profile.gpus_per_node)
    if on_a_node * profile.nodes >= resources.workers:
        return []
    each = " and ".join(f"{each:g} {unit}" for _, _, each, unit in wants)
    return [
        Mismatch(
            "nodes",
            f"{profile.nodes} with room for {on_a_node} workers of {each} hold {on_a_node * profile.nodes} workers, "
            f"but a run has {resources.workers} (resources.workers)",
            f"ask for at least {math.ceil(resources.workers / on_a_node)}",
        )
    ]


def path_mismatches(profile: Profile, partitions: Sequence[Partition], *, records: Path, data: Path) -> list[Mismatch]:
    """Find folders that compute nodes cannot see, and records whose locks do not reach from one node to another."""
    asked = requested_partitions(profile, partitions)
    if asked and all(_is_this_host(partition) for partition in asked):
        return []
    mismatches = [
        Mismatch(option, f"{path} is on {place}, which other nodes do not see", "name a folder that all nodes share")
        for option, path in (("--records", records), ("--data", data))
        if (place := _node_local_place(path))
    ]
    lies_on = filesystem(records)
    if lies_on.is_network and lies_on.flock_reaches_other_hosts is False:
        found = f"{records} is on {lies_on.kind}, mounted so that other hosts do not see its locks, which runs need"
        mismatches.append(Mismatch("--records", found, lies_on.locking_hint))
    return mismatches


def slurm_time(seconds: int) -> str:
    """Format a duration as SLURM writes it, e.g. 1-12:00:00 or 01:30:00."""
    days, rest = divmod(seconds, 24 * 3600)
    clock = f"{rest // 3600:02d}:{rest // 60 % 60:02d}:{rest % 60:02d}"
    return f"{days}-{clock}" if days else clock


def _unknown(name: str, names: Sequence[str]) -> Mismatch:
    close = difflib.get_close_matches(name, names, n=1)
    hint = f"; did you mean {close[0]}?" if close else ""
    return Mismatch("partition", f"{name!r} is not a partition of this cluster", f"it has {', '.join(names)}{hint}")


def _hardware_mismatches(profile: Profile, partition: Partition) -> list[Mismatch]:
    if not partition.nodes:
        return [Mismatch("partition", f"{partition.name} has no nodes", "name another (deeper doctor lists them)")]
    mismatches = []
    if partition.max_seconds is not None and profile.seconds > partition.max_seconds:
        limit = slurm_time(partition.max_seconds)
        found = f"{profile.time} is over the limit of partition {partition.name}"
        mismatches.append(Mismatch("time", found, f"at most {limit}; a longer job is requeued and continues"))
    wanted = [(field, getattr(profile, field) or 0, resource) for field, resource in fields_with(Profile, NodeResource)]
    lacking = []
    for field, amount, resource in wanted:
        most = max(resource.available(kind) for kind in partition.nodes)
        if amount > most:
            found = f"{amount} {resource.unit}, but no node of partition {partition.name} has that many"
            lacking.append(Mismatch(field, found, f"at most {most}"))
    if lacking:
        return mismatches + lacking
    fitting = sum(
        kind.count
        for kind in partition.nodes
        if all(resource.available(kind) >= amount for _, amount, resource in wanted)
    )
    if profile.nodes > fitting:
        found = f"{profile.nodes}, but only {fitting} of partition {partition.name} have all that is asked of a node"
        valid = f"at most {fitting}" if fitting else f"ask less of each node; there are {describe_nodes(partition)}"
        mismatches.append(Mismatch("nodes", found, valid))
    return mismatches


def describe_nodes(partition: Partition) -> str:
    """Describe the nodes of a partition, grouped by their hardware."""
    counts: dict[str, int] = {}
    for kind in partition.nodes:
        gpus = f", {kind.gpus} GPUs" if kind.gpus else ""
        words = f"{kind.cpus} CPUs, {kind.memory_mib // 1024} GiB{gpus}"
        counts[words] = counts.get(words, 0) + kind.count
    return "; ".join(f"{count} x {words}" for words, count in counts.items())


def _is_this_host(partition: Partition) -> bool:
    return {kind.names for kind in partition.nodes} == {socket.gethostname().partition(".")[0]}


def _node_local_place(path: Path) -> str | None:
    """The place that makes a path visible on this node only; None if other nodes may see it."""
    lies_on = filesystem(path)
    if lies_on.is_network:
        return None
    if lies_on.in_memory:
        return f"{lies_on.mount_point} ({lies_on.kind})"
    for place in NODE_LOCAL_FOLDERS:
        # A file system that is mounted below such a folder was put there on purpose, most likely on all nodes.
        own_mount = lies_on.mount_point != place and lies_on.mount_point.is_relative_to(place)
        if path.resolve().is_relative_to(place) and not own_mount:
            return str(place)
    return None
