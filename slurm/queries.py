"""Asks SLURM for the cluster's partitions (sinfo) and for jobs (squeue, and sacct for jobs that have left the queue).

The `parse_*` functions parse the output of these commands and call nothing.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

from reproduce.errors import UserError

ANSWER_TIMEOUT_S = 30.0

PARTITION_FORMAT = "%R|%P|%a|%l|%D|%c|%m|%G|%T|%N"
JOB_FORMAT = ",".join(
    f"{field}:|" for field in ("JobArrayID", "State", "Reason", "NodeList", "TimeUsed", "TimeLimit", "RestartCnt")
)
ACCOUNTING_FORMAT = "JobID,State,NodeList,Elapsed,Timelimit"
ENDED_BY_REQUEUE = ("NODE_FAIL", "PREEMPTED", "REQUEUED")
"""States in the accounting of a start of a job that was followed by another one."""


class SlurmError(UserError):
    """Raised if SLURM is not installed on this machine, does not answer, refuses a request, or cannot run a job.

    The message has one line for each problem.
    """


@dataclass(frozen=True)
class NodeKind:
    """The nodes of a partition that have the same hardware and are in the same state."""

    count: int
    """Number of these nodes."""
    cpus: int
    """CPUs of each node."""
    memory_mib: int
    """Memory of each node in MiB."""
    gpus: int
    """GPUs of each node."""
    state: str
    """State as sinfo prints it, without a flag such as * at its end, e.g. idle, allocated or down."""
    names: str
    """Names of the nodes as SLURM abbreviates them, e.g. n[1-4,7]."""


@dataclass(frozen=True)
class Partition:
    """A partition of the cluster, with its limits and its nodes."""

    name: str
    state: str
    """State as sinfo prints it: up, down, drain or inact."""
    max_seconds: int | None
    """Longest time limit that a job may have, in seconds; None if it is unlimited."""
    default: bool
    """Whether jobs that name no partition run in this one."""
    nodes: tuple[NodeKind, ...]
    """The nodes, grouped by hardware and state; empty if the partition has none."""


@dataclass(frozen=True)
class SlurmJob:
    """The state of a job, or of one element of a job array, as SLURM reports it."""

    id: str
    """Id of the job, e.g. 17, or 17_3 for an element of an array."""
    state: str
    """SLURM's state in capitals, e.g. RUNNING; UNKNOWN if SLURM no longer knows the job."""
    reason: str = ""
    """Why the job waits, or why it ended as it did; empty if SLURM gives no reason."""
    nodes: str = ""
    """Names of the job's nodes as SLURM abbreviates them; empty if it has none."""
    elapsed_s: int | None = None
    """Seconds for which the job has run since its last start; None if SLURM reports none."""
    limit_s: int | None = None
    """Time limit in seconds; None if SLURM reports none."""
    restarts: int | None = None
    """Number of times that the job was requeued; None if SLURM does not know the job."""


def partitions() -> tuple[Partition, ...]:
    """Ask SLURM for all partitions of the cluster, hidden ones included.

    Raises:
        SlurmError: SLURM is not installed on this machine or does not answer.
    """
    return parse_partitions(run_command("sinfo", "--noheader", "--all", "--exact", f"--format={PARTITION_FORMAT}"))


def jobs(ids: Sequence[str]) -> tuple[SlurmJob, ...]:
    """Ask SLURM for jobs by their ids.

    Args:
        ids: Ids as `sbatch` prints them; a job array has one id.

    Returns:
        The jobs in the order of `ids`. Instead of a job array, its elements are returned. A job that SLURM no longer
        knows has the state UNKNOWN. If `ids` is empty, so is the result, and SLURM is not called.

    Raises:
        SlurmError: SLURM is not installed on this machine or does not answer.
    """
    if not ids:
        return ()
    found = _queued(ids)
    missing = [asked for asked in ids if not _of(asked, found)]
    if missing:
        found += _accounted(missing)
    unknown = "SLURM no longer knows it"
    return tuple(job for asked in ids for job in _of(asked, found) or [SlurmJob(asked, "UNKNOWN", unknown)])


# --- parsing -----------------------------------------------------------------------------------------


def parse_partitions(text: str) -> tuple[Partition, ...]:
    """Parse the output of `sinfo` in `PARTITION_FORMAT`.

    Each line describes one kind of nodes of a partition, so several lines may make up one partition.
    """
    found: dict[str, Partition] = {}
    for line in text.splitlines():
        name, starred, state, limit, count, cpus, memory, gres, nodes_state, names = line.split("|")
        kind = NodeKind(int(count), int(cpus), int(memory), parse_gpus(gres), nodes_state.rstrip("*~#!%$@^-+"), names)
        known = found[name].nodes if name in found else ()
        nodes = (*known, kind) if kind.count else known
        found[name] = Partition(name, state, parse_seconds(limit), starred.endswith("*"), nodes)
    return tuple(found.values())


def parse_jobs(text: str) -> list[SlurmJob]:
    """Parse the output of `squeue` in `JOB_FORMAT`, one job or element of a job array a line."""
    found = []
    for line in text.splitlines():
        identity, state, reason, nodes, elapsed, limit, restarts, _ = line.split("|")
        why = "" if reason == "None" else reason
        found.append(SlurmJob(identity, state, why, nodes, parse_seconds(elapsed), parse_seconds(limit), int(restarts)))
    return found


def parse_accounting(text: str) -> list[SlurmJob]:
    """Parse the output of `sacct --duplicates` in `ACCOUNTING_FORMAT`, one start of a job or of an element a line.

    In a state such as "CANCELLED by 1000", the words after the first become the reason.

    Returns:
        The jobs as their last starts ended. Their restarts are the earlier starts that a requeue has ended.
    """
    found: dict[str, SlurmJob] = {}
    for line in text.splitlines():
        identity, state, nodes, elapsed, limit = line.split("|")
        word, _, reason = state.partition(" ")
        before = found.get(identity)
        restarts = (before.restarts or 0) + (before.state in ENDED_BY_REQUEUE) if before else 0
        times = parse_seconds(elapsed), parse_seconds(limit)
        found[identity] = SlurmJob(identity, word, reason, nodes, *times, restarts)
    return list(found.values())


def parse_gpus(gres: str) -> int:
    """Count the GPUs in SLURM's list of a node's generic resources.

    Examples of such lists are gpu:4, gpu:a100:4(S:0-1), gpu:a100:2,gpu:v100:2 and (null).
    """
    count = 0
    for resource in re.sub(r"\(.*?\)", "", gres).split(","):
        name, *rest = resource.split(":")
        if name == "gpu":
            count += int(rest[-1]) if rest and rest[-1].isdigit() else 1
    return count


def parse_seconds(text: str) -> int | None:
    """Convert a time in one of SLURM's forms to seconds.

    The forms are M, M:S, H:M:S, D-H, D-H:M and D-H:M:S.

    Returns:
        The time in seconds; None for any other text, such as infinite or INVALID.
    """
    match = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", text)
    if match is None:
        return None
    days, *numbers = match.groups()
    given = [int(number) for number in numbers if number is not None]
    if days is not None or len(given) == 3:
        hours, minutes, seconds = [*given, 0, 0][:3]
    else:
        hours, minutes, seconds = 0, *[*given, 0][:2]
    return ((int(days or 0) * 24 + hours) * 60 + minutes) * 60 + seconds


# --- asking ------------------------------------------------------------------------------------------


def _queued(ids: Sequence[str]) -> list[SlurmJob]:
    """Ask the controller, which knows jobs that wait, run, or ended less than MinJobAge ago. Raises `SlurmError`."""
    command = ("squeue", "--noheader", "--array", "--states=all", f"--jobs={','.join(ids)}", f"--Format={JOB_FORMAT}")
    try:
        return parse_jobs(run_command(*command))
    except SlurmError as error:
        if "Invalid job id" in str(error):  # squeue's answer if it no longer knows the only job it is asked for
            return []
        raise


def _accounted(ids: Sequence[str]) -> list[SlurmJob]:
    """Ask the accounting. The list is empty if the cluster has none. Raises `SlurmError`."""
    if not shutil.which("sacct"):
        return []
    command = ("sacct", "--allocations", "--duplicates", "--noheader", "--parsable2", f"--jobs={','.join(ids)}")
    try:
        return parse_accounting(run_command(*command, f"--format={ACCOUNTING_FORMAT}"))
    except SlurmError as error:
        if "accounting storage is disabled" in str(error):
            return []
        raise


def _of(asked: str, found: Sequence[SlurmJob]) -> list[SlurmJob]:
    mine = [job for job in found if job.id == asked or job.id.startswith(f"{asked}_")]
    return sorted(mine, key=lambda job: (len(job.id), job.id))  # 17_2 before 17_10


def run_command(*command: str) -> str:
    """Run one of SLURM's commands and return its standard output.

    Raises:
        SlurmError: The command is not on PATH, fails, or takes longer than `ANSWER_TIMEOUT_S`.
    """
    program = command[0]
    try:
        return subprocess.run(
            command, capture_output=True, text=True, timeout=ANSWER_TIMEOUT_S, check=True, encoding="utf-8"
        ).stdout
    except FileNotFoundError:
        raise SlurmError(f"SLURM: no {program} on PATH; this works on a login node of a cluster") from None
    except subprocess.TimeoutExpired:
        raise SlurmError(
            f"SLURM: {program} gave no answer within {ANSWER_TIMEOUT_S:.0f} s; is the controller up? ask: scontrol ping"
        ) from None
    except subprocess.CalledProcessError as error:
        raise SlurmError(f"SLURM: {program}: {(error.stderr.strip() or 'failed').splitlines()[-1]}") from None
