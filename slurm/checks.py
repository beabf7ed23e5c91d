"""Checks, before a job is submitted, whether the cluster offers what a profile asks for.

Each `Mismatch` names the profile's field, its value and what would be valid. Only `check_submission` calls SLURM; the
other functions take the partitions that `slurm.queries` returned.
"""

from __future__ import annotations

import difflib
import math
import os
import shutil
import socket
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.machine.filesystems import filesystem
from reproduce.data.manifest import SPLITS, DataError, beton
from reproduce.grid import arm_data
from reproduce.spec import ExperimentConfig, ResourcesConfig
from slurm import queries
from slurm.profile import Profile
from slurm.profile_fields import NodeResource, fields_with
from slurm.queries import Partition, SlurmError

NODE_LOCAL_FOLDERS = (Path("/tmp"), Path("/var/tmp"), Path("/dev/shm"), Path("/run"))


@dataclass(frozen=True)
class Mismatch:
    """One demand of a profile that the cluster cannot meet, or a folder that the job's nodes cannot use."""

    field: str
    """Field of the profile, or option of the command line, that has to be changed."""
    found: str
    """The field's value and what is wrong with it."""
    valid: str
    """Which values would be valid, or what to do."""

    def __str__(self) -> str:
        return f"{self.field}: {self.found}; {self.valid}"


def check_submission(profile: Profile, resources: Mapping[str, ResourcesConfig], *, records: Path, data: Path) -> None:
    """Check that the cluster can start the job and that each of its runs fits into the job.

    Args:
        profile: The resources that the job asks for.
        resources: The resources of a run of each arm; empty if no run has to fit.
        records: Folder of the records, which the nodes write.
        data: Folder of the prepared data sets, which the nodes read.

    Raises:
        SlurmError: There are mismatches, and the message has one line for each; or SLURM is not installed on this
            machine or does not answer.
    """
    if not shutil.which("sbatch"):
        raise SlurmError(
            "SLURM: no sbatch on PATH; submit on a login node of the cluster, or take the scripts there: "
            "deeper slurm render EXPERIMENT --output DIR"
        )
    partitions = queries.partitions()
    mismatches = [
        *partition_mismatches(profile, partitions),
        *_mismatches_of_arms(profile, resources),
        *path_mismatches(profile, partitions, records=records, data=data),
    ]
    if mismatches:
        raise SlurmError("\n".join(map(str, mismatches)))


def check_readable(experiment: ExperimentConfig, data: Path) -> None:
    """Check that this user may read the files of an experiment's prepared data sets.

    Args:
        experiment: The experiment.
        data: Root folder of the prepared data sets, which have manifests.

    Raises:
        DataError: A file is not readable.
    """
    for path in (beton(data / one.path, split) for one in arm_data(experiment) for split in SPLITS):
        if not os.access(path, os.R_OK, effective_ids=True):
            raise DataError(f"{path}: cannot be read by this user; ask its owner for: chmod a+r {path}")


def requested_partitions(profile: Profile, partitions: Sequence[Partition]) -> list[Partition]:
    """Return the partitions in which a job of the profile may start.

    Args:
        profile: The profile, whose `partition` may name several with commas between them.
        partitions: All partitions of the cluster.

    Returns:
        The partitions that the profile names, or the cluster's default one if it names none. Names that the cluster
        does not have are skipped, so the list may be empty.
    """
    if profile.partition is None:
        return [partition for partition in partitions if partition.default]
    names = profile.partition.split(",")
    return [partition for partition in partitions if partition.name in names]


def partition_mismatches(profile: Profile, partitions: Sequence[Partition]) -> list[Mismatch]:
    """Compare a profile with the partitions in which its job may start.

    Args:
        profile: The profile.
        partitions: All partitions of the cluster.

    Returns:
        The mismatches, empty if there are none: the profile names no partition and the cluster has no default one; the
        cluster has no partition of that name; or a requested partition has no nodes, has a time limit below the
        profile's, has no node with enough CPUs, GPUs or memory, or has too few nodes that meet all demands at once.
        Each requested partition is checked by itself.
    """
    names = [partition.name for partition in partitions]
    asked = requested_partitions(profile, partitions)
    if profile.partition is None and not asked:
        return [Mismatch("partition", "none is given, and the cluster has no default", f"it has {', '.join(names)}")]
    unknown = [
        (field, name)
        for field, given in (("partition", profile.partition), ("report.partition", profile.report.partition))
        for name in (given or "").split(",")
        if name and name not in names
    ]
    return [_unknown(field, name, names) for field, name in unknown] + [
        mismatch for partition in asked for mismatch in _hardware_mismatches(profile, partition)
    ]


def _mismatches_of_arms(profile: Profile, resources: Mapping[str, ResourcesConfig]) -> Iterator[Mismatch]:
    """Yield the mismatches of each kind of run, in the name of the first such arm if there are several kinds."""
    kinds: dict[ResourcesConfig, str] = {}
    for arm, each in resources.items():
        kinds.setdefault(each, arm)
    for each, arm in kinds.items():
        yield from world_size_mismatches(profile, each, f"arm {arm}" if len(kinds) > 1 else "this experiment")


def world_size_mismatches(
    profile: Profile, resources: ResourcesConfig, whose: str = "this experiment"
) -> list[Mismatch]:
    """Check that the nodes of a job together have room for the workers of one run.

    This uses the same rule as `bench.orchestration.cluster.capacity`: a worker lies on one node, and its share of a
    GPU within one GPU.

    Args:
        profile: The nodes of the job, with their CPUs and GPUs.
        resources: The resources of one run.
        whose: To what the run belongs, for messages.

    Returns:
        The mismatches of `cpus_per_node` and `gpus_per_node` if a node has no room for one worker, else that of `nodes`
        if there are too few; empty if a run fits.
    """
    wants: list[tuple[str, int, float, str]] = [
        ("cpus_per_node", profile.cpus_per_node, resources.cpus_per_worker, "CPUs")
    ]
    if resources.gpus_per_worker:
        wants.append(("gpus_per_node", profile.gpus_per_node, resources.gpus_per_worker, "GPUs"))
    mismatches = [
        Mismatch(
            field,
            f"{has}, but a worker of {whose} takes {each:g} {unit}",
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
            f"but a run of {whose} has {resources.workers} (resources.workers)",
            f"ask for at least {math.ceil(resources.workers / on_a_node)}",
        )
    ]


def path_mismatches(profile: Profile, partitions: Sequence[Partition], *, records: Path, data: Path) -> list[Mismatch]:
    """Find folders that the nodes of the job cannot share.

    Args:
        profile: The profile.
        partitions: All partitions of the cluster.
        records: Folder of the records.
        data: Folder of the prepared data sets.

    Returns:
        The mismatches: the records or the data lie on a file system in memory or in a folder such as /tmp, of which
        every node has its own; or the records lie on a network file system that is mounted so that other hosts do not
        see its locks. Empty if there are none, or if this host is the only node of every requested partition.
    """
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
    """Format a duration in seconds as SLURM does, e.g. 1-12:00:00 or 01:30:00."""
    days, rest = divmod(seconds, 24 * 3600)
    clock = f"{rest // 3600:02d}:{rest // 60 % 60:02d}:{rest % 60:02d}"
    return f"{days}-{clock}" if days else clock


def _unknown(field: str, name: str, names: Sequence[str]) -> Mismatch:
    close = difflib.get_close_matches(name, names, n=1)
    hint = f"; did you mean {close[0]}?" if close else ""
    return Mismatch(field, f"{name!r} is not a partition of this cluster", f"it has {', '.join(names)}{hint}")


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
        to_blame = [
            (field, amount, resource, enough)
            for field, amount, resource in wanted
            if (enough := _most(profile, partition, resource, wanted)) is not None
        ]
        if len(to_blame) == 1 and to_blame[0][0] == "memory_gib":
            ((field, amount, resource, enough),) = to_blame
            found = f"{amount} {resource.unit}, which only {fitting} nodes of partition {partition.name} have"
            return [*mismatches, Mismatch(field, found, f"at most {enough} for {profile.nodes} nodes")]
        found = f"{profile.nodes}, but only {fitting} of partition {partition.name} have all that is asked of a node"
        valid = f"at most {fitting}" if fitting else f"ask less of each node; there are {describe_nodes(partition)}"
        mismatches.append(Mismatch("nodes", found, valid))
    return mismatches


def _most(
    profile: Profile, partition: Partition, resource: NodeResource, wanted: Sequence[tuple[str, int, NodeResource]]
) -> int | None:
    """Return how much of a resource enough nodes have that meet all other demands; None if there are too few."""
    others = [(amount, other) for _, amount, other in wanted if other is not resource]
    offers = [
        (resource.available(kind), kind.count)
        for kind in partition.nodes
        if all(other.available(kind) >= amount for amount, other in others)
    ]
    nodes = 0
    for available, count in sorted(offers, reverse=True):
        nodes += count
        if nodes >= profile.nodes:
            return available
    return None


def describe_nodes(partition: Partition) -> str:
    """Describe the nodes of a partition by their hardware, e.g. "4 x 64 CPUs, 512 GiB, 8 GPUs; 2 x 8 CPUs, 31 GiB"."""
    counts: dict[str, int] = {}
    for kind in partition.nodes:
        gpus = f", {kind.gpus} GPUs" if kind.gpus else ""
        words = f"{kind.cpus} CPUs, {kind.memory_mib // 1024} GiB{gpus}"
        counts[words] = counts.get(words, 0) + kind.count
    return "; ".join(f"{count} x {words}" for words, count in counts.items())


def _is_this_host(partition: Partition) -> bool:
    return {kind.names for kind in partition.nodes} == {socket.gethostname().partition(".")[0]}


def _node_local_place(path: Path) -> str | None:
    """Return the mount point or the folder that hides a path from other nodes; None if other nodes may see the path."""
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
