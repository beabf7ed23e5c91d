"""Checks of `deeper doctor` on a cluster: whether SLURM answers, what its partitions offer, whether a profile fits."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from bench.console.checks import Check
from slurm import queries
from slurm.checks import describe_nodes, partition_mismatches, path_mismatches, slurm_time
from slurm.profile import load_profile
from slurm.queries import Partition, SlurmError

UNUSABLE = ("down", "drained", "draining", "drain", "fail", "maint", "unknown")


NO_CLUSTER = "Could not establish a configuration source"
"""What SLURM's commands say on a machine that has the packages and no configuration, as after `setup.sh`."""


def slurm_check() -> Check:
    """Check whether SLURM is installed on this machine and answers.

    Returns:
        `ok` with SLURM's version, `ok` if it is not installed or belongs to no cluster, or `warn` if `sinfo` fails for
        another reason or takes more than 10 s.
    """
    if not shutil.which("sinfo"):
        return Check("SLURM", "ok", "not installed here; it is only needed to submit to a cluster")
    try:
        answer = subprocess.run(
            ["sinfo", "--version"], capture_output=True, text=True, timeout=10, check=True, encoding="utf-8"
        )
    except (OSError, subprocess.SubprocessError) as error:
        if NO_CLUSTER in (getattr(error, "stderr", None) or ""):
            return Check("SLURM", "ok", "installed, as for the tests, but this machine belongs to no cluster")
        return Check("SLURM", "warn", f"sinfo does not answer: {error}", "ask the cluster's operator")
    return Check("SLURM", "ok", answer.stdout.strip())


def cluster_checks(profile: str | None, *, records: Path, data: Path) -> list[Check]:
    """Check the partitions of the cluster, and compare them with a profile.

    Args:
        profile: Name or file of a profile; None to check the partitions only.
        records: Folder of the records.
        data: Folder of the prepared data sets.

    Returns:
        One check for each partition and, if a profile is given, one for each of its mismatches or one `ok` if it has
        none. If SLURM does not answer, one `warn`. If SLURM is not installed or this machine belongs to no cluster, one
        `warn` for the profile, or an empty list if none is given.

    Raises:
        SpecError: There is no such profile, or it is invalid.
    """
    asked = None if profile is None else load_profile(profile)
    lacking = Check(f"profile {profile}", "warn", "no SLURM here to compare it with", "try on a login node")
    if not shutil.which("sinfo"):
        return [lacking] if profile else []
    try:
        partitions = queries.partitions()
    except SlurmError as error:
        if NO_CLUSTER in str(error):
            return [lacking] if profile else []
        return [Check("partitions", "warn", str(error), "ask the cluster's operator")]
    checks = [_partition(partition) for partition in partitions]
    if asked is None:
        return checks
    mismatches = [
        *partition_mismatches(asked, partitions),
        *path_mismatches(asked, partitions, records=records, data=data),
    ]
    checks += [
        Check(f"profile {profile}", "fail", f"{mismatch.field}: {mismatch.found}", mismatch.valid)
        for mismatch in mismatches
    ]
    return checks if mismatches else [*checks, Check(f"profile {profile}", "ok", "the cluster has what it asks for")]


def _partition(partition: Partition) -> Check:
    name = f"partition {partition.name}"
    if not partition.nodes:
        return Check(name, "warn", "no nodes")
    limit = "no time limit" if partition.max_seconds is None else f"at most {slurm_time(partition.max_seconds)}"
    found = f"{describe_nodes(partition)}; {limit}{'; the default' if partition.default else ''}"
    if partition.state != "up":
        return Check(name, "warn", f"{found}; it is {partition.state}: jobs do not start", "take another partition")
    unusable = sum(kind.count for kind in partition.nodes if kind.state in UNUSABLE)
    count = sum(kind.count for kind in partition.nodes)
    if unusable == count:
        return Check(name, "warn", f"{found}; no node is up", "sinfo --list-reasons tells why")
    return Check(name, "ok", f"{found}; {count - unusable} of {count} nodes up")
