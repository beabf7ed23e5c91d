"""The commands `deeper slurm list`, `deeper slurm logs` and `deeper slurm cancel`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import Any

from bench.console.options import add_command, add_json, whole_number

EXAMPLES = """examples:
  deeper slurm list                             # the jobs of all experiments
  deeper slurm list ablation-imagenet --json
  deeper slurm logs                             # of the newest submission
  deeper slurm logs 4711_3 --follow             # one element of an array, until it has ended
  deeper slurm cancel ablation-imagenet         # all of its jobs that have not ended, that of the report included
  deeper slurm cancel 4711                      # this job alone
"""
TARGET = "Id of a job, e.g. 17 or 17_3, or an experiment."


def add_to(actions: Any, places: argparse.ArgumentParser) -> None:
    """Add the commands to the subparsers of `deeper slurm`.

    Args:
        actions: The subparsers of `deeper slurm`.
        places: Parent parser with --records and --data.
    """

    def action(name: str, call: Callable[[argparse.Namespace], int], help: str) -> argparse.ArgumentParser:
        return add_command(actions, places, name, call, help, examples=EXAMPLES)

    listing = action("list", _list, "List the jobs of all submissions, or of one experiment, with their states.")
    listing.add_argument("experiment", nargs="?", help="Name or file of an experiment. Default: all experiments.")
    add_json(listing)
    logs = action("logs", _logs, "Print the logs of a job, or of the newest submission.")
    logs.add_argument("target", nargs="?", metavar="JOB|EXPERIMENT", help=f"{TARGET} Default: the newest submission.")
    logs.add_argument("--follow", "-f", action="store_true", help="Go on until the jobs have ended.")
    logs.add_argument(
        "--lines", "-n", type=whole_number(0), metavar="N", help="Begin with the last N lines. Default: all."
    )
    cancel = action("cancel", _cancel, "Cancel jobs. Their runs write checkpoints, and a new submission continues.")
    cancel.add_argument("targets", nargs="+", metavar="JOB|EXPERIMENT", help=f"{TARGET} May be repeated.")


def _list(arguments: argparse.Namespace) -> int:
    from bench.console.output import plain_console, print_result, show
    from slurm import status
    from slurm.submitted.selection import experiment_name, submitted_experiments

    chosen = [experiment_name(arguments.experiment)] if arguments.experiment else None
    found = status.view(arguments.records, *(chosen or submitted_experiments(arguments.records)))

    def show_text() -> None:
        if not found.jobs:
            print(f"nothing has been submitted{f' for {chosen[0]}' if chosen else ''} from {arguments.records}")
            return
        show(plain_console(), status.listing(found))
        if found.missing:
            print(f"the states are not known: {found.missing}")

    print_result(arguments, status.as_json(found), show_text)
    return 0


def _logs(arguments: argparse.Namespace) -> int:
    from slurm.submitted.logs import print_logs
    from slurm.submitted.selection import newest_submission, select_jobs

    if arguments.target is None:
        jobs = newest_submission(arguments.records)
    else:
        jobs = newest_submission(arguments.records, select_jobs(arguments.records, arguments.target))
    print_logs(jobs, sys.stdout, lines=arguments.lines, follow=arguments.follow)
    return 0


def _cancel(arguments: argparse.Namespace) -> int:
    from slurm.queries import run_command
    from slurm.status import ENDED
    from slurm.submitted.selection import select_jobs

    # Before any is cancelled: a typing error in the last one.
    chosen = {job.job.id: job for target in arguments.targets for job in select_jobs(arguments.records, target)}
    waiting = {name: job for name, job in chosen.items() if job.job.state not in ENDED}
    for name, job in chosen.items():
        if name not in waiting:
            print(f"job {name} of {job.experiment} has ended: {job.job.state}")
    if waiting:
        run_command("scancel", *waiting)
    for name, job in waiting.items():
        print(f"job {name} of {job.experiment} ({job.what}) is cancelled; it was {job.job.state}")
    return 0
