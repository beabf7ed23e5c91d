"""From an experiment to jobs in the queue: the submission's folder beside the records, and sbatch.

<records>/experiments/<name>/slurm/<YYYYmmdd-HHMMSS[-n]>/
    experiment.yaml  verbatim, so that a later edit does not change a job that is requeued
    profile.yaml     resolved
    job.sh, report.sh
    jobs.json        {"grid": "17", "report": "18"}, once they are submitted
    grid-*.log, report-*.log
"""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

import yaml

from bench.records.plan import experiment_folder
from reproduce.atomic import write_atomically
from reproduce.grid import arm_data, plan
from reproduce.spec import ExperimentConfig, PlannedRun, SpecError
from slurm.profile import Profile
from slurm.queries import SlurmError
from slurm.rendering import Job, render_job, render_report

JOBS = "jobs.json"
EXPERIMENT, PROFILE, JOB, REPORT = "experiment.yaml", "profile.yaml", "job.sh", "report.sh"


def experiment_text(name_or_path: str) -> str:
    """The file of an experiment that `load_experiment` has read, as it is."""
    if Path(name_or_path).suffix in (".yaml", ".yml"):
        return Path(name_or_path).read_text(encoding="utf-8")
    return (resources.files("reproduce") / "experiments" / f"{name_or_path}.yaml").read_text(encoding="utf-8")


def runs_on_paper(experiment: ExperimentConfig) -> list[PlannedRun]:
    """The runs by arm and seed where the data are not at hand; their keys mean nothing. Raises `SpecError`."""
    paths = [data.path for data in arm_data(experiment)]
    return plan(
        experiment,
        data_hashes=dict.fromkeys(paths, "unknown"),
        classes=dict.fromkeys(paths, 1000),
        train_images=dict.fromkeys(paths, 10**9),
    )


def submissions(records: Path, experiment: str) -> Path:
    """Where the folders of an experiment's submissions lie."""
    return experiment_folder(records, experiment) / "slurm"


def new_folder(records: Path, experiment: str) -> Path:
    """Make the folder of a submission; no two share one."""
    parent = submissions(records, experiment)
    parent.mkdir(parents=True, exist_ok=True)
    stamp = time.strftime("%Y%m%d-%H%M%S")
    number = 1
    while True:
        folder = parent / (stamp if number == 1 else f"{stamp}-{number}")
        try:
            folder.mkdir()
            return folder
        except FileExistsError:
            number += 1


def write_scripts(job: Job, profile: Profile, experiment: str) -> None:
    """Fill the folder of a submission; `experiment` is the text of its file. Raises `SpecError` if it is filled."""
    job.folder.mkdir(parents=True, exist_ok=True)
    if (job.folder / JOB).exists():
        raise SpecError(f"--out: {job.folder} holds a submission, which is never overwritten; name another folder")
    (job.folder / EXPERIMENT).write_text(experiment, encoding="utf-8")
    (job.folder / PROFILE).write_text(
        yaml.safe_dump(profile.model_dump(mode="json"), sort_keys=False), encoding="utf-8"
    )
    for name, script in ((JOB, render_job(job, profile)), (REPORT, render_report(job, profile))):
        (job.folder / name).write_text(script, encoding="utf-8")
        (job.folder / name).chmod(0o755)


def submit(folder: Path, *, report: bool = True) -> dict[str, str]:
    """Enter the queue; the job ids, as jobs.json holds them. Raises `SlurmError` where sbatch refuses."""
    jobs = {"grid": _sbatch(folder / JOB)}
    _remember(folder, jobs)
    if report:
        try:
            jobs["report"] = _sbatch(folder / REPORT, f"--dependency=afterany:{jobs['grid']}")
        except SlurmError as error:
            raise SlurmError(f"job {jobs['grid']} is submitted, its report is not: {error}") from error
        _remember(folder, jobs)
    return jobs


def slurm_is_here() -> bool:
    return shutil.which("sbatch") is not None


def what_slurm_says(job: Job, profile: Profile) -> str:
    """When and where the job would start, by `sbatch --test-only`; leaves nothing. Raises `SlurmError`."""
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", suffix=".sh") as script:
        script.write(render_job(job, profile))
        script.flush()
        return _run(["sbatch", "--test-only", script.name]).stderr.strip()


def _sbatch(script: Path, *options: str) -> str:
    answer = _run(["sbatch", "--parsable", *options, str(script)]).stdout
    return answer.strip().partition(";")[0]  # ID, or ID;CLUSTER


def _run(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    answer = subprocess.run(command, capture_output=True, text=True, encoding="utf-8")
    if answer.returncode:
        said = " ".join(line.removeprefix("sbatch: error: ").strip() for line in answer.stderr.splitlines())
        raise SlurmError(f"sbatch: {said}; the script: {command[-1]}")
    return answer


def _remember(folder: Path, jobs: dict[str, str]) -> None:
    write_atomically(folder / JOBS, json.dumps(jobs).encode())
