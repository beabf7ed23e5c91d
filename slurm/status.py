"""SLURM's view of an experiment: the jobs of its submissions, for `deeper status`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from bench.console.formats import format_duration
from bench.console.tables import Column, FittedTable
from slurm import queries
from slurm.queries import Job, SlurmError
from slurm.submission import JOBS, submissions

ENDED = frozenset(
    {"BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED"}
    | {"REVOKED", "TIMEOUT", "UNKNOWN"}
)
STYLES = {"RUNNING": "cyan", "COMPLETING": "cyan", "PENDING": "yellow", "COMPLETED": "green", "UNKNOWN": "dim"}


@dataclass(frozen=True)
class SubmittedJob:
    """A job of a submission, or one element of its array."""

    submission: Path
    what: str
    """grid or report."""
    job: Job

    @property
    def log(self) -> Path:
        return self.submission / f"{self.what}-{self.job.id}.log"


@dataclass(frozen=True)
class View:
    """All jobs of an experiment, the latest submission last."""

    jobs: tuple[SubmittedJob, ...]
    missing: str | None = None
    """Why SLURM does not tell of them, so that all states are unknown."""


def view(records: Path, experiment: str) -> View:
    """What SLURM says now of every job that the experiment was ever submitted as."""
    submitted = [
        (path.parent, what, job_id)
        for path in sorted(submissions(records.absolute(), experiment).glob(f"*/{JOBS}"))
        for what, job_id in json.loads(path.read_text(encoding="utf-8")).items()
    ]
    missing = None
    try:
        told = queries.jobs([job_id for _, _, job_id in submitted])
    except SlurmError as error:
        missing = str(error)
        told = tuple(Job(job_id, "UNKNOWN", "SLURM was not asked") for _, _, job_id in submitted)
    jobs = [
        SubmittedJob(folder, what, job)
        for folder, what, job_id in submitted
        for job in told
        if job.id.partition("_")[0] == job_id
    ]
    return View(tuple(jobs), missing)


def as_json(found: View) -> list[dict[str, Any]]:
    """What a program may read of the jobs: the fields of `queries.Job`, what the job is for and its log."""
    return [{**asdict(entry.job), "what": entry.what, "log": str(entry.log)} for entry in found.jobs]


def render(found: View) -> RenderableType:
    """A table a submission; jobs that have ended are shown of the latest one only."""
    if found.missing:
        return Text(
            f"{len(found.jobs)} jobs were submitted, of which nothing is known: {found.missing}", style="yellow"
        )
    latest = found.jobs[-1].submission
    shown = [entry for entry in found.jobs if entry.submission == latest or entry.job.state not in ENDED]
    parts: list[RenderableType] = []
    for folder in dict.fromkeys(entry.submission for entry in shown):
        parts += [
            Text(f"\nSLURM, logs in {folder}", style="bold"),
            _table([e for e in shown if e.submission == folder]),
        ]
    if len(shown) < len(found.jobs):
        parts.append(Text(f"... and {len(found.jobs) - len(shown)} jobs of earlier submissions, ended", style="dim"))
    return Group(*parts)


def _table(entries: Sequence[SubmittedJob]) -> FittedTable:
    columns = (
        Column("job"),
        Column(""),
        Column("state"),
        Column("nodes", priority=1),
        Column("time"),
        Column("restarts", "right", priority=2),
        Column("log", priority=3),
    )
    rows = []
    for entry in entries:
        job = entry.job
        elapsed = "-" if job.elapsed_s is None else format_duration(job.elapsed_s)
        rows.append(
            (
                job.id,
                entry.what,
                Text(job.state + (f" ({job.reason})" if job.reason else ""), style=STYLES.get(job.state, "red")),
                job.nodes or "-",
                elapsed if job.limit_s is None else f"{elapsed} of {format_duration(job.limit_s)}",
                "-" if job.restarts is None else str(job.restarts),
                entry.log.name,
            )
        )
    return FittedTable(columns, rows)
