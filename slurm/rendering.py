"""The job scripts: what `sbatch` is given, readable and complete, so that a person may submit them by hand."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

import jinja2

from slurm.profile import Profile

REPORT_MINUTES = 30
REPORT_MEMORY_GIB = 4


@dataclass(frozen=True)
class Job:
    """What is to be done, and where; all paths are absolute and seen by the nodes."""

    experiment: str
    """Its name."""
    folder: Path
    """Of the submission: scripts, experiment.yaml, logs."""
    records: Path
    data: Path
    split: int | None = None
    """Elements of a job array that share the grid; None: one job."""
    address: str | None = None
    """Of a Ray cluster that the nodes join; None: a cluster of the job's own."""
    arms: tuple[str, ...] = ()
    seeds: tuple[int, ...] = ()
    retry_failed: bool = False

    @property
    def log(self) -> Path:
        """Of the grid, in sbatch's terms."""
        return self.folder / ("grid-%A_%a.log" if self.split else "grid-%j.log")


def render_job(job: Job, profile: Profile) -> str:
    """The script that carries out the grid."""
    asked = {
        "--job-name": job.experiment,
        **_queue(profile),
        "--constraint": profile.constraint,
        "--time": profile.time,
        "--nodes": profile.nodes,
        "--ntasks-per-node": 1,
        "--cpus-per-task": profile.cpus_per_node,
        "--gpus-per-node": profile.gpus_per_node or None,
        "--mem": f"{profile.memory_gib}G" if profile.memory_gib else None,
        "--exclusive": profile.exclusive,
        "--array": f"0-{job.split - 1}" if job.split else None,
        "--requeue": True,
        "--no-kill": True,
        "--signal": f"B:USR1@{profile.signal_before_s}",
        "--output": job.log,
        "--open-mode": "append",
    }
    further = [_directive(*option.partition("=")[::2]) for option in profile.options]
    return _render("job.sh.j2", job, profile, directives=[*_directives(asked), *further], run_options=_run_options(job))


def render_report(job: Job, profile: Profile) -> str:
    """The script that publishes the records and makes the report, once the grid's job has ended."""
    asked = {
        "--job-name": f"{job.experiment}-report",
        **_queue(profile),
        "--time": REPORT_MINUTES,
        "--ntasks": 1,
        "--cpus-per-task": 1,
        "--mem": f"{REPORT_MEMORY_GIB}G",
        "--output": job.folder / "report-%j.log",
    }
    return _render("report.sh.j2", job, profile, directives=_directives(asked))


def _queue(profile: Profile) -> dict[str, object]:
    return {"--partition": profile.partition, "--account": profile.account, "--qos": profile.qos}


def _directives(options: dict[str, object]) -> list[str]:
    return [
        _directive(name, "" if value is True else str(value))
        for name, value in options.items()
        if value is not None and value is not False
    ]


def _directive(name: str, value: str) -> str:
    return f"#SBATCH {name}={shlex.quote(value)}" if value else f"#SBATCH {name}"


def _run_options(job: Job) -> list[str]:
    """What the launcher hands on to `deeper run`, in shell words."""
    options = [f'--part "$((SLURM_ARRAY_TASK_ID + 1))/{job.split}"'] if job.split else []
    options += [f"--arm {shlex.quote(arm)}" for arm in job.arms]
    options += [f"--seed {seed}" for seed in job.seeds]
    return options + ["--retry-failed"] * job.retry_failed


def _render(template: str, job: Job, profile: Profile, **more: object) -> str:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("slurm"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["quote"] = lambda value: shlex.quote(str(value))
    return environment.get_template(template).render(job=job, profile=profile, **more)
