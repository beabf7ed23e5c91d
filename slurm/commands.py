"""The commands `deeper slurm render`, `submit` and `profiles`; other rooms add theirs."""

from __future__ import annotations

import argparse
import os
import re
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.console.options import (
    add_choice,
    add_command,
    add_experiment,
    add_retry,
    output_folder,
    require_writable_records,
    whole_number,
)
from slurm.submitted import commands as submitted
from slurm.trial import commands as trial

if TYPE_CHECKING:
    from reproduce.spec import ExperimentConfig, PlannedRun
    from slurm.profile import Profile
    from slurm.rendering import Job

DEPENDENCIES = ("after", "afterany", "afterok", "afternotok", "aftercorr", "afterburstbuffer")
DEPENDENCY = re.compile(rf"((?:{'|'.join(DEPENDENCIES)}):)?\d+(_\d+)?(\+\d+)?")
"""A job to wait for: its id, or a type of sbatch's --dependency with an id."""
EXAMPLES = """examples:
  deeper slurm profiles
  deeper slurm submit ablation-imagenet --profile gpu-nodes --dry-run
  deeper slurm submit ablation-imagenet --profile gpu-nodes
  deeper slurm submit my-ablation.yaml --profile one-gpu-node --split 4    # a job array, one node an element
  deeper slurm submit my-ablation.yaml --profile one-gpu-node --split 40 --throttle 8
  deeper slurm submit my-ablation.yaml --profile one-gpu-node --after 4711  # once that job has ended
  deeper slurm submit my-ablation.yaml --profile one-gpu-node --address head:6379
  deeper slurm render ablation-imagenet --profile gpu-nodes --output scripts  # then: sbatch scripts/job.sh

Finished runs are not repeated: the same command continues with the remaining ones.
"""


def add_to(subparsers: Any, places: argparse.ArgumentParser) -> None:
    """Add `deeper slurm` and its subcommands to the command line, without importing anything slow.

    Args:
        subparsers: The subparsers of `deeper`.
        places: Parent parser with --records and --data.
    """
    slurm = subparsers.add_parser("slurm", help="Run an experiment on a SLURM cluster.")
    actions = slurm.add_subparsers(metavar="ACTION", required=True)

    def action(name: str, call: Callable[[argparse.Namespace], int], help: str) -> argparse.ArgumentParser:
        parser = add_command(actions, places, name, call, help, examples=EXAMPLES)
        add_experiment(parser)
        parser.add_argument(
            "--profile",
            default=os.environ.get("DEEPER_PROFILE"),
            help="What to ask the cluster for: a name (deeper slurm profiles) or a file. Default: $DEEPER_PROFILE.",
        )
        form = parser.add_mutually_exclusive_group()
        form.add_argument(
            "--split", type=int, metavar="N", help="Submit a job array of N elements that share the runs."
        )
        form.add_argument("--address", metavar="HOST:PORT", help="Let the nodes join this Ray cluster.")
        parser.add_argument(
            "--throttle", type=whole_number(1), metavar="K", help="Let at most K elements of --split run at once."
        )
        parser.add_argument(
            "--after",
            action="append",
            default=[],
            metavar="JOB",
            help="Start once this job has ended, or as TYPE:JOB says, e.g. afterok:17. May be repeated.",
        )
        add_choice(parser)
        add_retry(parser)
        return parser

    render = action("render", _render, "Print the job scripts. Needs neither SLURM nor prepared data.")
    render.add_argument(
        "--output", type=output_folder, metavar="DIR", help="Write the scripts into a folder, ready for sbatch."
    )
    submit = action("submit", _submit, "Submit an experiment as a job, and a job for its report that follows it.")
    submit.add_argument("--no-report", action="store_true", help="Submit no job for the report.")
    submit.add_argument(
        "--dry-run",
        action="store_true",
        help="Check everything, ask SLURM when the job would start, and submit nothing.",
    )
    profiles = actions.add_parser("profiles", help="List the profiles with their descriptions and files.")
    profiles.set_defaults(call=_profiles)
    submitted.add_to(actions, places)
    trial.add_to(actions, places)


def _render(arguments: argparse.Namespace) -> int:
    from reproduce.grid import plan_without_data
    from reproduce.spec import load_experiment
    from slurm.profile import chosen_profile
    from slurm.rendering import render_job, render_report
    from slurm.submission import read_experiment_text, submissions_folder, write_scripts

    experiment, profile = load_experiment(arguments.experiment), chosen_profile(arguments.profile)
    _selected(arguments, plan_without_data(experiment))
    if arguments.output:
        job = _job(arguments, experiment, arguments.output.absolute())
        write_scripts(job, profile, read_experiment_text(arguments.experiment))
        print(f"{job.folder}: type there: sbatch job.sh, then: sbatch --dependency=afterany:JOB report.sh")
        return 0
    folder = submissions_folder(arguments.records.absolute(), experiment.name) / "by-hand"
    job = _job(arguments, experiment, folder)
    print(render_job(job, profile))
    print(f"# ===== report.sh; to write both as files, ready for sbatch: --output {folder} =====")
    print(render_report(job, profile), end="")
    return 0


def _submit(arguments: argparse.Namespace) -> int:
    from reproduce.spec import load_experiment
    from slurm.profile import chosen_profile
    from slurm.submitting.ray_cluster import check_ray_cluster

    # Before what is slow to import: a typing error is frequent.
    experiment, profile = load_experiment(arguments.experiment), chosen_profile(arguments.profile)
    require_writable_records(arguments)

    from bench.planning.plan import check_disk, make_plan
    from bench.records.plan import plan_hash, write_experiment, write_plan
    from reproduce.grid import plan_without_data
    from slurm import submission
    from slurm.checks import check_readable

    _selected(arguments, plan_without_data(experiment))
    plan = make_plan(experiment, arguments.data, announce=print)
    check_readable(experiment, arguments.data)
    runs = _selected(arguments, plan.runs)
    records = arguments.records.absolute()
    check_disk(records, plan.disk_bytes)
    if arguments.address and (unchecked := check_ray_cluster(arguments.address)):
        print(unchecked)
    if not (left := _left(arguments, runs)):
        place = shlex.quote(str(records))
        print(
            f"nothing to do: all {len(runs)} runs have ended, and no job is submitted\n"
            f"runs:      deeper status {experiment.name} --records {place}\n"
            f"report:    deeper report {experiment.name} --records {place}"
        )
        return 0
    if arguments.dry_run:
        job = _job(arguments, experiment, submission.submissions_folder(records, experiment.name) / "dry-run")
        if submission.is_slurm_available():
            _check(arguments, runs, profile)
            for line in submission.estimate_start(job, profile):
                print(line)
        else:
            print("there is no SLURM here (no sbatch on PATH) to ask when the job would start")
        print(f"{len(left)} runs would be submitted; nothing has been")
        return 0
    _check(arguments, runs, profile)
    write_experiment(records, experiment)
    write_plan(records, experiment.name, plan.runs, plan.costs)
    job = _job(arguments, experiment, submission.create_submission_folder(records, experiment.name))
    submission.write_plan_hash(job.folder, plan_hash(plan.runs))
    submission.write_scripts(job, profile, submission.read_experiment_text(arguments.experiment))
    shell = submission.submitting_shell(job.folder)
    jobs = submission.submit(job.folder, report=not arguments.no_report)
    _print_submission(job, profile, jobs, len(left))
    for line in shell.describe():
        print(line)
    return 0


def _profiles(arguments: argparse.Namespace) -> int:
    from rich.text import Text

    from bench.console.output import plain_console, show
    from bench.console.tables import Cell, Column, FittedTable
    from reproduce.spec import SpecError
    from slurm.profile import load_profile, profiles

    rows: list[list[Cell]] = []
    for name, path in profiles().items():
        try:
            description: Cell = load_profile(path).description
        except SpecError as error:
            description = Text(str(error), style="red")
        rows.append([name, str(path), description])
    columns = [Column("name"), Column("file", priority=1), Column("what it is", prose=True)]
    show(plain_console(), FittedTable(columns, rows))
    return 0


def _selected(arguments: argparse.Namespace, runs: Sequence[PlannedRun]) -> list[PlannedRun]:
    """Return the runs that --arm and --seed select.

    Raises:
        SpecError: There is no such arm or seed, --split is not from 1 to the number of runs, --throttle is given
            without it, --address is not HOST:PORT, or --after is no job.
    """
    from bench.planning.plan import select
    from reproduce.spec import SpecError

    selected = select(runs, arguments.arm, arguments.seed)
    if arguments.split is not None and not 1 <= arguments.split <= len(selected):
        raise SpecError(
            f"--split: {len(selected)} runs cannot be split into {arguments.split}; use 1 to {len(selected)}"
        )
    if arguments.throttle is not None and arguments.split is None:
        raise SpecError(f"--throttle: {arguments.throttle} elements of an array, but there is none; add --split N")
    for job in arguments.after:
        if not DEPENDENCY.fullmatch(job):
            raise SpecError(
                f"--after: {job!r} is neither the id of a job, e.g. 17, nor one of {', '.join(DEPENDENCIES)} with an "
                "id, e.g. afterok:17"
            )
    if arguments.address is not None and not re.fullmatch(r"[^\s:]+:\d+", arguments.address):
        raise SpecError(f"--address: {arguments.address!r} is not HOST:PORT of a Ray cluster, e.g. head:6379")
    return selected


def _left(arguments: argparse.Namespace, runs: Sequence[PlannedRun]) -> list[PlannedRun]:
    """Return the runs that a job would train: those that have not finished nor, without --retry-failed, failed."""
    from bench.records.states import read_state, run_folder
    from reproduce import schema

    settled = {schema.FINISHED} if arguments.retry_failed else {schema.FINISHED, schema.FAILED}
    return [run for run in runs if read_state(run_folder(arguments.records, run.key)).status not in settled]


def _job(arguments: argparse.Namespace, experiment: ExperimentConfig, folder: Path) -> Job:
    from slurm.rendering import Job

    return Job(
        experiment=experiment.name,
        folder=folder,
        records=arguments.records.absolute(),
        data=arguments.data.absolute(),
        split=arguments.split,
        address=arguments.address,
        arms=tuple(arguments.arm),
        seeds=tuple(arguments.seed),
        retry_failed=arguments.retry_failed,
        throttle=arguments.throttle,
        after=tuple(arguments.after),
    )


def _check(arguments: argparse.Namespace, runs: Sequence[PlannedRun], profile: Profile) -> None:
    from slurm.checks import check_submission

    resources = {run.arm: run.resources for run in runs}
    if arguments.address:  # the cluster that is joined has nodes of its own, so a single worker has to fit
        resources = {arm: each.model_copy(update={"workers": 1}) for arm, each in resources.items()}
    check_submission(profile, resources, records=arguments.records.absolute(), data=arguments.data.absolute())


def _print_submission(job: Job, profile: Profile, jobs: dict[str, str], runs: int) -> None:
    grid = f"{jobs['grid']}_*" if job.split else jobs["grid"]
    records = shlex.quote(str(job.records))
    print(
        f"{runs} runs submitted as job {jobs['grid']}"
        + (f", report as job {jobs['report']}" if "report" in jobs else "")
    )
    print(f"log:       {job.folder}/grid-{grid}.log")
    print(f"runs:      deeper status {job.experiment} --records {records}")
    print(f"dashboard: {profile.tracking_uri or f'deeper dashboard {job.experiment} --records {records}'}")
    if "report" in jobs:
        print(f"report:    {job.records}/reports/{job.experiment}/index.html, once job {jobs['report']} is done")
    print(f"follow:    deeper slurm logs {jobs['grid']} --follow --records {records}")
    print(f"cancel:    scancel {jobs['grid']}    (every run writes a checkpoint; submit again to continue)")
