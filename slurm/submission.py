"""Submits an experiment: writes the folder of the submission beside the records and calls sbatch.

<records>/experiments/<name>/slurm/<YYYYmmdd-HHMMSS[-n]>/
    experiment.yaml  a verbatim copy, so that a later edit of the original does not change a job that is requeued
    plan             the hash of the plan whose runs are submitted
    profile.yaml     with all defaults filled in
    job.sh, report.sh
    jobs.json        {"grid": "17", "report": "18"}, the ids of the jobs, written when they are submitted
    grid-*.log, report-*.log
"""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
import time
from importlib import resources
from pathlib import Path

import yaml

from bench.records.plan import experiment_folder
from reproduce.errors import UserError
from reproduce.files.atomic import write_atomically
from reproduce.spec import SpecError
from reproduce.text.yaml_files import read_text
from slurm.job.config import PLAN_HASH
from slurm.profile import Profile
from slurm.queries import SlurmError
from slurm.rendering import Job, render_job, render_report
from slurm.submitting.environment import SubmittingShell, options_of, separate

JOBS = "jobs.json"
EXPERIMENT, PROFILE, JOB, REPORT = "experiment.yaml", "profile.yaml", "job.sh", "report.sh"


def read_experiment_text(name_or_path: str) -> str:
    """Read the text of an experiment's file.

    Args:
        name_or_path: The name of a shipped experiment or the path of a file, which `load_experiment` has accepted.
    """
    if Path(name_or_path).suffix in (".yaml", ".yml"):
        return read_text(Path(name_or_path))
    return (resources.files("reproduce") / "experiments" / f"{name_or_path}.yaml").read_text(encoding="utf-8")


def submissions_folder(records: Path, experiment: str) -> Path:
    """Return the folder that holds the folders of all submissions of an experiment. It need not exist yet."""
    return experiment_folder(records, experiment) / "slurm"


def create_submission_folder(records: Path, experiment: str) -> Path:
    """Create a new folder for a submission, named after the local time.

    Args:
        records: Folder of the records.
        experiment: Name of the experiment.

    Raises:
        UserError: The folder cannot be created.
    """
    return create_stamped_folder(submissions_folder(records, experiment))


def create_stamped_folder(parent: Path) -> Path:
    """Create a new folder that is named after the local time, with a number appended if that exists.

    Args:
        parent: The folder in which to create it, which need not exist.

    Raises:
        UserError: The folder cannot be created.
    """
    try:
        parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(parent, error) from error
    stamp = time.strftime("%Y%m%d-%H%M%S")
    number = 1
    while True:
        folder = parent / (stamp if number == 1 else f"{stamp}-{number}")
        try:
            folder.mkdir()
            return folder
        except FileExistsError:
            number += 1
        except OSError as error:
            raise _unwritable(folder, error) from error


def submission_order(folder: Path) -> tuple[str, int]:
    """Return a key that sorts the folders of submissions by time: DATE-TIME-10 comes after DATE-TIME-2."""
    date, clock, number = [*folder.name.split("-"), "", ""][:3]
    return f"{date}-{clock}", int(number) if number.isdecimal() else 1


def _unwritable(folder: Path, error: OSError) -> UserError:
    return UserError(f"--records: {folder} cannot be created: {error.strerror}; name a folder that you may write to")


def write_plan_hash(folder: Path, digest: str) -> None:
    """Write the hash of the plan whose runs are submitted, since the experiment may be edited while jobs wait."""
    (folder / PLAN_HASH).write_text(digest, encoding="utf-8")


def write_scripts(job: Job, profile: Profile, experiment: str) -> None:
    """Write the scripts and the copies of the experiment and the profile into the folder of a submission.

    Args:
        job: The job, whose folder is created if it does not exist.
        profile: The resources that the job asks for.
        experiment: Text of the experiment's file.

    Raises:
        SpecError: The folder already holds a submission, which is left unchanged.
    """
    job.folder.mkdir(parents=True, exist_ok=True)
    if (job.folder / JOB).exists():
        raise SpecError(f"--output: {job.folder} holds a submission, which is never overwritten; name another folder")
    (job.folder / EXPERIMENT).write_text(experiment, encoding="utf-8")
    (job.folder / PROFILE).write_text(
        yaml.safe_dump(profile.model_dump(mode="json"), sort_keys=False), encoding="utf-8"
    )
    for name, script in ((JOB, render_job(job, profile)), (REPORT, render_report(job, profile))):
        (job.folder / name).write_text(script, encoding="utf-8")
        (job.folder / name).chmod(0o755)


def submit(folder: Path, *, report: bool = True) -> dict[str, str]:
    """Submit the scripts in the folder of a submission, and write the ids of the jobs to its jobs.json.

    This returns as soon as the jobs are queued.

    Args:
        folder: The folder, as `write_scripts` leaves it.
        report: Whether to submit the report's job as well, which starts when the experiment's job has ended.

    Returns:
        The ids of the jobs: that of the experiment's job as "grid" and, if it was submitted, that of the report's job
        as "report".

    Raises:
        SlurmError: sbatch refuses a job. If it refuses the experiment's, the folder is removed. If it refuses the
            report's, the experiment's stays submitted and its id is in jobs.json.
    """
    try:
        jobs = {"grid": submit_script(folder / JOB)}
    except SlurmError:
        shutil.rmtree(folder)  # nothing was submitted
        raise
    _write_job_ids(folder, jobs)
    if report:
        try:
            jobs["report"] = submit_script(folder / REPORT, f"--dependency=afterany:{jobs['grid']}")
        except SlurmError as error:
            raise SlurmError(f"job {jobs['grid']} is submitted, its report is not: {error}") from error
        _write_job_ids(folder, jobs)
    return jobs


def is_slurm_available() -> bool:
    """Whether `sbatch` is on PATH, so that jobs can be submitted from this machine."""
    return shutil.which("sbatch") is not None


def estimate_start(job: Job, profile: Profile) -> list[str]:
    """Ask SLURM when and where a job would start (`sbatch --test-only`), without submitting it.

    Returns:
        Lines to be shown to the user: the answer of `sbatch`, and which variables of the shell count.

    Raises:
        SlurmError: sbatch would refuse the job.
    """
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", suffix=".sh") as script:
        script.write(render_job(job, profile))
        script.flush()
        answer = _run(Path(script.name), "--test-only").stderr.strip()
    return [answer, *separate(options_of(render_job(job, profile))).describe()]


def submitting_shell(folder: Path) -> SubmittingShell:
    """Return what becomes of the variables of this shell for `sbatch` when the folder's job is submitted."""
    return separate(options_of((folder / JOB).read_text(encoding="utf-8")))


def submit_script(script: Path, *options: str) -> str:
    """Submit a script with further options of `sbatch`, and return the job's id. Raises `SlurmError`."""
    answer = _run(script, "--parsable", *options).stdout
    return answer.strip().partition(";")[0]  # ID, or ID;CLUSTER


def _run(script: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Call `sbatch` with further options for a script, whose own options the environment cannot overrule."""
    own = options_of(script.read_text(encoding="utf-8"))
    shell = separate(own)
    answer = subprocess.run(
        ["sbatch", *options, *own, str(script)], env=shell.environment, capture_output=True, text=True, encoding="utf-8"
    )
    if answer.returncode:
        said = " ".join(line.removeprefix("sbatch: error: ").strip() for line in answer.stderr.splitlines())
        in_force = f"; your shell adds {', '.join(shell.in_force)}" if shell.in_force else ""
        asked = next((option for option in own if option.startswith("--constraint=")), None)
        if asked and "feature" in said:
            said = (
                f"{said}: no node has {asked.partition('=')[2]!r} (constraint); sinfo --format=%f lists what they have"
            )
        raise SlurmError(f"sbatch: {said}{in_force}")
    return answer


def _write_job_ids(folder: Path, jobs: dict[str, str]) -> None:
    write_atomically(folder / JOBS, json.dumps(jobs).encode())
