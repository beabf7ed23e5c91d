"""Asks a cluster about its partitions (sinfo) and jobs (squeue, and sacct for jobs that have left the queue).

The `parse_*` functions take the output of these commands as text.
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


class SlurmError(UserError):
    """SLURM is not installed here, does not answer, or refuses a request. The message is one line for each problem."""


@dataclass(frozen=True)
class NodeKind:
    """The nodes of a partition that have the same hardware and state."""

    count: int
    cpus: int
    memory_mib: int
    gpus: int
    state: str
    names: str
    """As SLURM abbreviates them, e.g. n[1-4,7]."""


@dataclass(frozen=True)
class Partition:
    """A partition of the cluster."""

    name: str
    state: str
    """up, down, drain or inact."""
    max_seconds: int | None
    """Time limit of a job in seconds; None if there is none."""
    default: bool
    """Whether jobs that name no partition go here."""
    nodes: tuple[NodeKind, ...]


@dataclass(frozen=True)
class SlurmJob:
    """What SLURM says about a job, or about one element of a job array."""

    id: str
    """17, or 17_3 for an element of an array."""
    state: str
    """SLURM's word in capitals, e.g. RUNNING; UNKNOWN if SLURM no longer knows the job."""
    reason: str = ""
    """Why it waits, or why it ended as it did; empty if SLURM gives no reason."""
    nodes: str = ""
    elapsed_s: int | None = None
    """Duration of the current or last start."""
    limit_s: int | None = None
    restarts: int | None = None
    """How often it was requeued; None if that is not known."""


def partitions() -> tuple[Partition, ...]:
    """Ask for all partitions of the cluster. Raises `SlurmError`."""
    return parse_partitions(run_command("sinfo", "--noheader", "--all", "--exact", f"--format={PARTITION_FORMAT}"))


def jobs(ids: Sequence[str]) -> tuple[SlurmJob, ...]:
    """Ask for jobs by their ids.

    Returns:
        The jobs in the order of their ids, with an array replaced by its elements.

    Raises:
        SlurmError: SLURM does not answer.
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
    """Parse lines in `PARTITION_FORMAT`, each of which describes one kind of nodes of a partition."""
    found: dict[str, Partition] = {}
    for line in text.splitlines():
        name, starred, state, limit, count, cpus, memory, gres, nodes_state, names = line.split("|")
        kind = NodeKind(int(count), int(cpus), int(memory), parse_gpus(gres), nodes_state.rstrip("*~#!%$@^-+"), names)
        known = found[name].nodes if name in found else ()
        nodes = (*known, kind) if kind.count else known
        found[name] = Partition(name, state, parse_seconds(limit), starred.endswith("*"), nodes)
    return tuple(found.values())


def parse_jobs(text: str) -> list[SlurmJob]:
    """Parse lines in `JOB_FORMAT`."""
    found = []
    for line in text.splitlines():
        identity, state, reason, nodes, elapsed, limit, restarts, _ = line.split("|")
        why = "" if reason == "None" else reason
        found.append(SlurmJob(identity, state, why, nodes, parse_seconds(elapsed), parse_seconds(limit), int(restarts)))
    return found


def parse_accounting(text: str) -> list[SlurmJob]:
    """Parse lines in `ACCOUNTING_FORMAT`. A state may be followed by who caused it, as in "CANCELLED by 1000"."""
    found = []
    for line in text.splitlines():
        identity, state, nodes, elapsed, limit = line.split("|")
        word, _, reason = state.partition(" ")
        found.append(SlurmJob(identity, word, reason, nodes, parse_seconds(elapsed), parse_seconds(limit)))
    return found


def parse_gpus(gres: str) -> int:
    """Count the GPUs in a list of generic resources.

    Such a list is written as gpu:4, gpu:a100:4(S:0-1), gpu:a100:2,gpu:v100:2 or (null).
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
        Seconds; None for words such as infinite or INVALID.
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
    """The jobs that the controller knows: waiting, running, or ended less than MinJobAge ago."""
    command = ("squeue", "--noheader", "--array", "--states=all", f"--jobs={','.join(ids)}", f"--Format={JOB_FORMAT}")
    try:
        return parse_jobs(run_command(*command))
    except SlurmError as error:
        if "Invalid job id" in str(error):  # squeue's answer if it no longer knows the only job it is asked for
            return []
        raise


def _accounted(ids: Sequence[str]) -> list[SlurmJob]:
    """The jobs that the accounting knows, if the cluster keeps one."""
    if not shutil.which("sacct"):
        return []
    command = ("sacct", "--allocations", "--noheader", "--parsable2", f"--jobs={','.join(ids)}")
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
    """Run a command of SLURM's and return its output. Raises `SlurmError`."""
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
