"""What a cluster says of itself: its partitions (sinfo) and jobs (squeue, and sacct for those that have left).

Needs nothing of ours, so that it can be used anywhere. The `parse_*` functions take the commands' output as text.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

from reproduce.errors import UserError

ANSWER_S = 30.0

PARTITION_FORMAT = "%R|%P|%a|%l|%D|%c|%m|%G|%T|%N"
JOB_FORMAT = ",".join(
    f"{field}:|" for field in ("JobArrayID", "State", "Reason", "NodeList", "TimeUsed", "TimeLimit", "RestartCnt")
)
ACCOUNTING_FORMAT = "JobID,State,NodeList,Elapsed,Timelimit"


class SlurmError(UserError):
    """SLURM is not here, does not answer or refuses; told in one line."""


@dataclass(frozen=True)
class NodeKind:
    """Nodes of a partition that are alike."""

    count: int
    cpus: int
    memory_mib: int
    gpus: int
    state: str
    names: str
    """As SLURM abbreviates them: n[1-4,7]."""


@dataclass(frozen=True)
class Partition:
    name: str
    state: str
    """up, down, drain or inact."""
    max_seconds: int | None
    """Limit of a job's time; None: there is none."""
    default: bool
    nodes: tuple[NodeKind, ...]


@dataclass(frozen=True)
class Job:
    """A job, or one element of an array."""

    id: str
    """17, or 17_3 for an element."""
    state: str
    """SLURM's word in capitals; UNKNOWN where SLURM has forgotten the job."""
    reason: str = ""
    """Why it waits or has ended as it has; empty where SLURM gives none."""
    nodes: str = ""
    elapsed_s: int | None = None
    """Of the current or last start."""
    limit_s: int | None = None
    restarts: int | None = None
    """Times it was requeued; None where that is not known."""


def partitions() -> tuple[Partition, ...]:
    """All partitions of the cluster. Raises `SlurmError`."""
    return parse_partitions(ask("sinfo", "--noheader", "--all", "--exact", f"--format={PARTITION_FORMAT}"))


def jobs(ids: Sequence[str]) -> tuple[Job, ...]:
    """The jobs of these ids in their order, arrays as their elements. Raises `SlurmError`."""
    if not ids:
        return ()
    found = _queued(ids)
    missing = [asked for asked in ids if not _of(asked, found)]
    if missing:
        found += _accounted(missing)
    return tuple(job for asked in ids for job in _of(asked, found) or [Job(asked, "UNKNOWN", "SLURM has forgotten it")])


# --- parsing -----------------------------------------------------------------------------------------


def parse_partitions(text: str) -> tuple[Partition, ...]:
    """`text`: lines of `PARTITION_FORMAT`, one a kind of nodes of a partition."""
    found: dict[str, Partition] = {}
    for line in text.splitlines():
        name, starred, state, limit, count, cpus, memory, gres, nodes_state, names = line.split("|")
        kind = NodeKind(int(count), int(cpus), int(memory), parse_gpus(gres), nodes_state.rstrip("*~#!%$@^-+"), names)
        known = found[name].nodes if name in found else ()
        nodes = (*known, kind) if kind.count else known
        found[name] = Partition(name, state, parse_seconds(limit), starred.endswith("*"), nodes)
    return tuple(found.values())


def parse_jobs(text: str) -> list[Job]:
    """`text`: lines of `JOB_FORMAT`."""
    found = []
    for line in text.splitlines():
        identity, state, reason, nodes, elapsed, limit, restarts, _ = line.split("|")
        why = "" if reason == "None" else reason
        found.append(Job(identity, state, why, nodes, parse_seconds(elapsed), parse_seconds(limit), int(restarts)))
    return found


def parse_accounting(text: str) -> list[Job]:
    """`text`: lines of `ACCOUNTING_FORMAT`; a state may be followed by who it is due to ("CANCELLED by 1000")."""
    found = []
    for line in text.splitlines():
        identity, state, nodes, elapsed, limit = line.split("|")
        word, _, reason = state.partition(" ")
        found.append(Job(identity, word, reason, nodes, parse_seconds(elapsed), parse_seconds(limit)))
    return found


def parse_gpus(gres: str) -> int:
    """GPUs in a list of generic resources: gpu:4, gpu:a100:4(S:0-1), gpu:a100:2,gpu:v100:2, (null)."""
    count = 0
    for resource in re.sub(r"\(.*?\)", "", gres).split(","):
        name, *rest = resource.split(":")
        if name == "gpu":
            count += int(rest[-1]) if rest and rest[-1].isdigit() else 1
    return count


def parse_seconds(text: str) -> int | None:
    """A time in SLURM's forms, M, M:S, H:M:S, D-H, D-H:M, D-H:M:S, in seconds; None for words: infinite, INVALID."""
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


def _queued(ids: Sequence[str]) -> list[Job]:
    """Those that the controller knows: waiting, running, or ended less than MinJobAge ago."""
    command = ("squeue", "--noheader", "--array", "--states=all", f"--jobs={','.join(ids)}", f"--Format={JOB_FORMAT}")
    try:
        return parse_jobs(ask(*command))
    except SlurmError as error:
        if "Invalid job id" in str(error):  # squeue's answer where it knows the only job asked for no more
            return []
        raise


def _accounted(ids: Sequence[str]) -> list[Job]:
    """From the accounting, where the cluster keeps one."""
    if not shutil.which("sacct"):
        return []
    command = ("sacct", "--allocations", "--noheader", "--parsable2", f"--jobs={','.join(ids)}")
    try:
        return parse_accounting(ask(*command, f"--format={ACCOUNTING_FORMAT}"))
    except SlurmError as error:
        if "accounting storage is disabled" in str(error):
            return []
        raise


def _of(asked: str, found: Sequence[Job]) -> list[Job]:
    mine = [job for job in found if job.id == asked or job.id.startswith(f"{asked}_")]
    return sorted(mine, key=lambda job: (len(job.id), job.id))  # 17_2 before 17_10


def ask(*command: str) -> str:
    """What a command of SLURM's prints. Raises `SlurmError`."""
    program = command[0]
    try:
        return subprocess.run(
            command, capture_output=True, text=True, timeout=ANSWER_S, check=True, encoding="utf-8"
        ).stdout
    except FileNotFoundError:
        raise SlurmError(f"SLURM: no {program} on PATH; this works on a login node of a cluster") from None
    except subprocess.TimeoutExpired:
        raise SlurmError(
            f"SLURM: {program} gave no answer within {ANSWER_S:.0f} s; is the controller up? ask: scontrol ping"
        ) from None
    except subprocess.CalledProcessError as error:
        raise SlurmError(f"SLURM: {program}: {(error.stderr.strip() or 'failed').splitlines()[-1]}") from None
