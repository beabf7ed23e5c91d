"""Renders the scripts that are passed to `sbatch`. They are readable and complete, and may be submitted by hand."""

from __future__ import annotations

import math
import shlex
from dataclasses import dataclass
from pathlib import Path

import jinja2

from reproduce.spec import SpecError
from slurm.profile import Profile, ReportJob
from slurm.profile_fields import LauncherOption, SbatchOption, Section, fields_with

CHECK_TIME = "00:20:00"
"""Time limit of the job that measures nodes. It takes two to five minutes, on a slow file system more."""

CONTROLLER_POLL_S = 10
"""Seconds after which a job asks SLURM's controller again if that has not answered."""


@dataclass(frozen=True)
class Job:
    """The experiment that a job runs, the folders that it uses, and the runs that it is limited to.

    All paths must be absolute and visible to the nodes; this is not checked here.
    """

    experiment: str
    """Name of the experiment."""
    folder: Path
    """The submission's folder, with the scripts, experiment.yaml and the logs."""
    records: Path
    """Folder of the records."""
    data: Path
    """Root folder of the prepared data sets."""
    split: int | None = None
    """Number of elements of a job array that share the runs; None for a single job."""
    address: str | None = None
    """HOST:PORT of an existing Ray cluster that the nodes join; None if the nodes form a cluster of their own."""
    arms: tuple[str, ...] = ()
    """Arms whose runs the job carries out; all arms if empty."""
    seeds: tuple[int, ...] = ()
    """Seeds whose runs the job carries out; all seeds if empty."""
    retry_failed: bool = False
    """Whether runs that have failed before are tried again."""
    throttle: int | None = None
    """Number of elements of a job array that run at once; None for that of the profile."""
    after: tuple[str, ...] = ()
    """Jobs that have to end before this one starts: their ids, or TYPE:ID with a type of sbatch's --dependency."""

    @property
    def log(self) -> Path:
        """Path of the log of the experiment's job, with sbatch's placeholders such as %j for the job's id."""
        return _escaped(self.folder) / ("grid-%A_%a.log" if self.split else "grid-%j.log")


def render_job(job: Job, profile: Profile) -> str:
    """Render the script of the job that runs the experiment, and return its text."""
    options = {
        "job-name": job.experiment,
        **_profile_options(profile, "queue"),
        **_profile_options(profile, "job"),
        "ntasks-per-node": 1,
        **_profile_options(profile, "node"),
        "array": _array(job, profile),
        **_dependency(job, profile),
        "requeue": True,
        "no-kill": True,
        **_profile_options(profile, "signal"),
        "output": job.log,
        "open-mode": "append",
    }
    further = map(_further, profile.further_options)
    return _render(
        "job.sh.j2",
        job,
        profile,
        directives=[*_directives(options), *further],
        launcher_options=_launcher_options(profile),
        run_options=_run_options(job) + ["--allow-other-machine"] * profile.allow_other_machine,
        granted=_granted(profile),
        controller_poll_s=CONTROLLER_POLL_S,
    )


def render_report(job: Job, profile: Profile) -> str:
    """Render the script of the job that publishes the records and makes the report, and return its text.

    The script does not wait for the experiment's job; `sbatch --dependency=afterany:ID` makes it wait.
    """
    report = profile.report
    queue = {**_profile_options(profile, "queue"), **_given(_profile_options(report, "queue"))}
    if report.partition and not report.qos:
        queue["qos"] = None  # that of another partition
    options = {
        "job-name": f"{job.experiment}-report",
        **queue,
        **_profile_options(report, "job"),
        "ntasks": 1,
        "cpus-per-task": 1,
        **_profile_options(report, "node"),
        "output": _escaped(job.folder) / "report-%j.log",
    }
    directives = [*_directives(options), *map(_further, report.further_options)]
    return _render("report.sh.j2", job, profile, directives=directives)


def render_check(job: Job, profile: Profile, data: Path | None, run: Path | None, seconds: float) -> str:
    """Render the script of the job that measures the nodes of a profile, and return its text.

    Args:
        job: Its folder and records; it has the name of the trial in place of an experiment's.
        profile: What to ask the cluster for, but for the time.
        data: A prepared data set to load; None to load none.
        run: A file with the run that the nodes train, as JSON; None for GoogLeNet at 224 px.
        seconds: How long a measurement takes.
    """
    options = {
        "job-name": job.experiment,
        **_profile_options(profile, "queue"),
        **_profile_options(profile, "job"),
        "time": CHECK_TIME,
        "ntasks-per-node": 1,
        **_profile_options(profile, "node"),
        "no-kill": True,
        "output": _escaped(job.folder) / "check-%j.log",
    }
    return _render(
        "check.sh.j2",
        job,
        profile,
        directives=[*_directives(options), *map(_further, profile.further_options)],
        launcher_options=_launcher_options(profile),
        trial_options=[
            f"--seconds {seconds:g}",
            *(f"--{name} {shlex.quote(str(path))}" for name, path in (("data", data), ("run", run)) if path),
        ],
    )


def _granted(profile: Profile) -> list[tuple[str, str, str]]:
    """Return what a job script compares: a field of the profile, its value, and how the shell reads what was granted.

    Only what SLURM tells every job is compared; whoever types `sbatch job.sh` may have overruled it.
    """
    time = displayed_time(profile.seconds)
    fields = [
        ("partition", profile.partition, "${SLURM_JOB_PARTITION:-}"),
        ("account", profile.account, "${SLURM_JOB_ACCOUNT:-}"),
        ("qos", profile.qos, "${SLURM_JOB_QOS:-}"),
        ("time", time, f"${{limit:-{time}}}"),
        ("nodes", profile.nodes, "${SLURM_JOB_NUM_NODES:-}"),
        ("cpus_per_node", profile.cpus_per_node, "${SLURM_CPUS_PER_TASK:-}"),
        ("gpus_per_node", profile.gpus_per_node or None, "${SLURM_GPUS_ON_NODE:-}"),
        ("memory_gib", profile.memory_gib, "$((${SLURM_MEM_PER_NODE:-0} / 1024))"),
    ]
    return [
        (field, str(asked), granted)
        for field, asked, granted in fields
        if asked is not None and not (field == "partition" and "," in str(asked))
    ]


def displayed_time(seconds: int) -> str:
    """Return a time limit as `squeue` shows it: in whole minutes, rounded up, e.g. 20:00, 1:30:00 or 1-12:00:00."""
    minutes = math.ceil(seconds / 60)
    days, hours, minutes = minutes // 1440, minutes // 60 % 24, minutes % 60
    if days:
        return f"{days}-{hours:02d}:{minutes:02d}:00"
    return f"{hours}:{minutes:02d}:00" if hours else f"{minutes}:00"


def _profile_options(profile: Profile | ReportJob, section: Section) -> dict[str, object]:
    """Return the options of `sbatch` that the profile's fields of one section set, with None for those to leave out."""
    return {
        option.name: option.directive(getattr(profile, field))
        for field, option in fields_with(type(profile), SbatchOption)
        if option.section == section
    }


def _array(job: Job, profile: Profile) -> str | None:
    throttle = job.throttle or profile.throttle
    return f"0-{job.split - 1}{f'%{throttle}' if throttle else ''}" if job.split else None


def _dependency(job: Job, profile: Profile) -> dict[str, object]:
    """Return the options of a job that waits for others. One that would wait for ever is ended by SLURM."""
    given = [profile.dependency] if profile.dependency else []
    waits_for = ",".join(given + [one if ":" in one else f"afterany:{one}" for one in job.after])
    return {"dependency": waits_for, "kill-on-invalid-dep": "yes"} if waits_for else {}


def _given(options: dict[str, object]) -> dict[str, object]:
    return {name: value for name, value in options.items() if value is not None}


def _directives(options: dict[str, object]) -> list[str]:
    """Return a directive for each option whose value is not None; True makes an option without a value."""
    return [
        _directive(name, "" if value is True else str(value)) for name, value in options.items() if value is not None
    ]


def _escaped(folder: Path) -> Path:
    """Return a path for `sbatch --output`, where a percent sign otherwise begins a placeholder."""
    return Path(str(folder).replace("%", "%%"))


def _further(option: str) -> str:
    """Return the directive of an option that is written as --option or --option=value."""
    return _directive(*option.removeprefix("--").partition("=")[::2])


def _directive(name: str, value: str) -> str:
    if not value.isprintable():  # a line break would end the directive, and what follows would be a command
        raise SpecError(f"--{name}: {value!r} has a character that a job script cannot hold; use another name")
    return f"#SBATCH --{name}={shlex.quote(value)}" if value else f"#SBATCH --{name}"


def _launcher_options(profile: Profile) -> list[str]:
    """Return the launcher's options that the profile's fields set, quoted for the shell."""
    values = [(option.name, getattr(profile, field)) for field, option in fields_with(Profile, LauncherOption)]
    return [f"--{name} {shlex.quote(str(value))}" for name, value in values if value is not None]


def _run_options(job: Job) -> list[str]:
    """Return the options that the launcher passes on to `deeper run`, quoted for the shell."""
    options = [f'--part "$((SLURM_ARRAY_TASK_ID + 1))/{job.split}"'] if job.split else []
    options += [f"--arm={shlex.quote(arm)}" for arm in job.arms]
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
