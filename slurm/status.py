"""Shows in `deeper status` the state of the jobs of an experiment's submissions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from bench.console.formats import format_duration
from bench.console.tables import Cell, Column, FittedTable
from bench.records.reading import read_json
from slurm import queries
from slurm.queries import SlurmError, SlurmJob
from slurm.submission import JOBS, submission_order, submissions_folder

ENDED = frozenset(
    {"BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED"}
    | {"REVOKED", "TIMEOUT", "UNKNOWN"}
)
STYLES = {"RUNNING": "cyan", "COMPLETING": "cyan", "PENDING": "yellow", "COMPLETED": "green", "UNKNOWN": "dim"}


@dataclass(frozen=True)
class SubmittedJob:
    """A job of a submission, or one element of its array."""

    submission: Path
    """The submission's folder."""
    what: str
    """Purpose of the job: "grid" for the runs, "report" for the report."""
    job: SlurmJob
    """State of the job as SLURM reports it."""

    @property
    def experiment(self) -> str:
        """Name of the experiment."""
        return self.submission.parents[1].name

    @property
    def log(self) -> Path:
        """Path of the job's log, which exists once the job has started."""
        return self.submission / f"{self.what}-{self.job.id}.log"


@dataclass(frozen=True)
class View:
    """All jobs that `deeper slurm submit` has submitted for an experiment, with their states."""

    jobs: tuple[SubmittedJob, ...]
    """The jobs, ordered by the time of their submission."""
    missing: str | None = None
    """The reason why SLURM did not answer, in which case every state is UNKNOWN; None if it answered."""


def view(records: Path, *experiments: str) -> View:
    """Ask SLURM, with one question, for every job that `deeper slurm submit` has submitted for some experiments.

    No exception is raised if SLURM does not answer: `View.missing` gives the reason.

    Args:
        records: Folder of the records.
        experiments: Names of the experiments.

    Raises:
        DamagedRecordError: The file with the ids of the jobs of a submission is damaged.
    """
    paths = [path for name in experiments for path in submissions_folder(records.absolute(), name).glob(f"*/{JOBS}")]
    submitted = [
        (path.parent, what, job_id)
        for path in sorted(paths, key=lambda path: submission_order(path.parent))
        for what, job_id in read_json(path, dict).items()
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
    """Convert the jobs to values that `json` can write.

    Returns:
        For each job the fields of `queries.SlurmJob`, `experiment`, `what` ("grid" or "report") and `log` (the path of
        its log).
    """
    return [
        {**asdict(entry.job), "experiment": entry.experiment, "what": entry.what, "log": str(entry.log)}
        for entry in found.jobs
    ]


def listing(found: View) -> RenderableType:
    """Render a table of jobs for each submission, the newest last."""
    parts: list[RenderableType] = []
    for folder in dict.fromkeys(entry.submission for entry in found.jobs):
        entries = [entry for entry in found.jobs if entry.submission == folder]
        parts += [Text(f"{entries[0].experiment}, submitted {folder.name}", style="bold"), _table(entries)]
    return Group(*parts)


def render(found: View) -> RenderableType:
    """Render a table for each submission, or one line if SLURM did not answer.

    Jobs that have ended are shown for the latest submission only; those of earlier submissions are counted.

    Args:
        found: The jobs, of which there is at least one.
    """
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


COLUMNS = (
    Column("job"),
    Column(""),
    Column("state"),
    Column("nodes", priority=1),
    Column("time"),
    Column("restarts", "right", priority=3),
    Column("log", priority=4),
)


def _table(entries: Sequence[SubmittedJob]) -> FittedTable:
    return FittedTable(COLUMNS, [_cells(entry) for entry in entries])


def _cells(entry: SubmittedJob) -> tuple[Cell, ...]:
    job = entry.job
    elapsed = "-" if job.elapsed_s is None else format_duration(job.elapsed_s)
    return (
        job.id,
        entry.what,
        Text(job.state + (f" ({job.reason})" if job.reason else ""), style=STYLES.get(job.state, "red")),
        job.nodes or "-",
        elapsed if job.limit_s is None else f"{elapsed} of {format_duration(job.limit_s)}",
        "-" if job.restarts is None else str(job.restarts),
        entry.log.name,
    )
