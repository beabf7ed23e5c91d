"""Renders the job scripts that `sbatch` is given: readable and complete, so that a person may submit them by hand."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

import jinja2

from slurm.profile import Profile
from slurm.profile_fields import LauncherOption, SbatchOption, Section, fields_with

REPORT_MINUTES = 30
REPORT_MEMORY_GIB = 4


@dataclass(frozen=True)
class Job:
    """What a job does, and where. All paths are absolute and visible to the nodes."""

    experiment: str
    """Name of the experiment."""
    folder: Path
    """The submission's folder, with the scripts, experiment.yaml and the logs."""
    records: Path
    data: Path
    split: int | None = None
    """Elements of the job array that share the runs; None for one job."""
    address: str | None = None
    """HOST:PORT of a Ray cluster that the nodes join; None for a cluster of the job's own."""
    arms: tuple[str, ...] = ()
    """Only the runs of these arms; all if empty."""
    seeds: tuple[int, ...] = ()
    """Only the runs of these seeds; all if empty."""
    retry_failed: bool = False
    """Whether runs that failed before are tried again."""

    @property
    def log(self) -> Path:
        """The log of the job that runs the experiment, with sbatch's placeholders for its id."""
        return self.folder / ("grid-%A_%a.log" if self.split else "grid-%j.log")


def render_job(job: Job, profile: Profile) -> str:
    """Render the script that runs the experiment."""
    options = {
        "job-name": job.experiment,
        **_profile_options(profile, "queue"),
        **_profile_options(profile, "job"),
        "ntasks-per-node": 1,
        **_profile_options(profile, "node"),
        "array": f"0-{job.split - 1}" if job.split else None,
        "requeue": True,
        "no-kill": True,
        **_profile_options(profile, "signal"),
        "output": job.log,
        "open-mode": "append",
    }
    further = [_directive(*option.removeprefix("--").partition("=")[::2]) for option in profile.further_options]
    return _render(
        "job.sh.j2",
        job,
        profile,
        directives=[*_directives(options), *further],
        launcher_options=_launcher_options(profile),
        run_options=_run_options(job),
    )


def render_report(job: Job, profile: Profile) -> str:
    """Render the script that publishes the records and makes the report, once the experiment's job has ended."""
    options = {
        "job-name": f"{job.experiment}-report",
        **_profile_options(profile, "queue"),
        "time": REPORT_MINUTES,
        "ntasks": 1,
        "cpus-per-task": 1,
        "mem": f"{REPORT_MEMORY_GIB}G",
        "output": job.folder / "report-%j.log",
    }
    return _render("report.sh.j2", job, profile, directives=_directives(options))


def _profile_options(profile: Profile, section: Section) -> dict[str, object]:
    """Options of `sbatch` that a section of the profile's fields gives."""
    return {
        option.name: option.directive(getattr(profile, field))
        for field, option in fields_with(Profile, SbatchOption)
        if option.section == section
    }


def _directives(options: dict[str, object]) -> list[str]:
    """Directives of the options that are given: not None; True stands for a flag."""
    return [
        _directive(name, "" if value is True else str(value)) for name, value in options.items() if value is not None
    ]


def _directive(name: str, value: str) -> str:
    return f"#SBATCH --{name}={shlex.quote(value)}" if value else f"#SBATCH --{name}"


def _launcher_options(profile: Profile) -> list[str]:
    """What the profile gives to the launcher, in shell words."""
    values = [(option.name, getattr(profile, field)) for field, option in fields_with(Profile, LauncherOption)]
    return [f"--{name} {shlex.quote(str(value))}" for name, value in values if value is not None]


def _run_options(job: Job) -> list[str]:
    """What the launcher passes on to `deeper run`, in shell words."""
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
