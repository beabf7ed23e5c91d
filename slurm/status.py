"""What SLURM says about the jobs of an experiment's submissions, for `deeper status`."""

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
from slurm.queries import SlurmError, SlurmJob
from slurm.submission import JOBS, submissions_folder

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
    """What the job is for: "grid" for the runs, "report" for the report."""
    job: SlurmJob

    @property
    def log(self) -> Path:
        """The job's log."""
        return self.submission / f"{self.what}-{self.job.id}.log"


@dataclass(frozen=True)
class View:
    """All jobs of an experiment, those of the latest submission last."""

    jobs: tuple[SubmittedJob, ...]
    missing: str | None = None
    """Why SLURM does not answer, so that all states are unknown; None if it does."""


def view(records: Path, experiment: str) -> View:
    """Ask SLURM about every job that was ever submitted for an experiment."""
    submitted = [
        (path.parent, what, job_id)
        for path in sorted(submissions_folder(records.absolute(), experiment).glob(f"*/{JOBS}"))
        for what, job_id in json.loads(path.read_text(encoding="utf-8")).items()
    ]
    missing = None
    try:
        found = queries.jobs([job_id for _, _, job_id in submitted])
    except SlurmError as error:
        missing = str(error)
        found = tuple(SlurmJob(job_id, "UNKNOWN", "SLURM was not asked") for _, _, job_id in submitted)
    jobs = [
        SubmittedJob(folder, what, job)
        for folder, what, job_id in submitted
        for job in found
        if job.id.partition("_")[0] == job_id
    ]
    return View(tuple(jobs), missing)


def as_json(found: View) -> list[dict[str, Any]]:
    """Return the jobs for programs to read: the fields of `queries.SlurmJob`, what each job is for, and its log."""
    return [{**asdict(entry.job), "what": entry.what, "log": str(entry.log)} for entry in found.jobs]


def render(found: View) -> RenderableType:
    """Render a table for each submission. Jobs that have ended are shown for the latest submission only."""
    if found.missing:
        return Text(
            f"{len(found.jobs)} jobs were submitted, and nothing is known about them: {found.missing}", style="yellow"
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
