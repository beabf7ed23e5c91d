"""Finds the submitted jobs that a user names: by the id of a job or by an experiment."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from bench.records.plan import experiments
from reproduce.errors import UserError
from reproduce.spec import load_experiment
from slurm.status import SubmittedJob, view
from slurm.submission import JOBS, submission_order, submissions_folder

JOB_ID = re.compile(r"\d+(_\d+)?")


def submitted_experiments(records: Path) -> list[str]:
    """Return the names of the experiments of which something has been submitted, sorted.

    Args:
        records: Folder of the records.
    """
    return [name for name in experiments(records) if any(submissions_folder(records, name).glob(f"*/{JOBS}"))]


def experiment_name(name_or_file: str) -> str:
    """Return the name of an experiment that is given by its name or by its file.

    Raises:
        SpecError: There is no such file, or it is no experiment.
    """
    return load_experiment(name_or_file).name if name_or_file.endswith((".yaml", ".yml")) else name_or_file


def select_jobs(records: Path, target: str) -> list[SubmittedJob]:
    """Return the jobs that a user names, with their states.

    Args:
        records: Folder of the records.
        target: Id of a job, of an array (all of its elements) or of an element, or name or file of an experiment.

    Returns:
        The jobs, ordered by the time of their submission; at least one.

    Raises:
        UserError: There is no such job or experiment in the records, or SLURM does not say whether an element exists.
    """
    known = submitted_experiments(records)
    if JOB_ID.fullmatch(target):
        found = [job for job in view(records, *known).jobs if target in (job.job.id, job.job.id.partition("_")[0])]
        kind = "job"
    else:
        name = experiment_name(target)
        found, kind = list(view(records, name).jobs if name in known else ()), "experiment"
    if not found:
        there_are = f"there are {', '.join(known)} (deeper slurm list)" if known else "nothing has been submitted"
        raise UserError(f"{target!r} is no {kind} that was submitted from --records {records}; {there_are}")
    return found


def newest_submission(records: Path, jobs: Sequence[SubmittedJob] | None = None) -> list[SubmittedJob]:
    """Return those of the jobs that belong to the newest submission.

    Args:
        records: Folder of the records.
        jobs: The jobs, ordered by the time of their submission; None for all jobs of the records.

    Raises:
        UserError: Nothing has been submitted.
    """
    if jobs is None:
        jobs = view(records, *submitted_experiments(records)).jobs
    if not jobs:
        raise UserError(f"nothing has been submitted from --records {records}; deeper slurm submit EXPERIMENT does")
    newest = max((job.submission for job in jobs), key=submission_order)
    return [job for job in jobs if job.submission == newest]
