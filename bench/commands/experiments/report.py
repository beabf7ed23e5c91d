"""Implements `deeper report`, which writes the report of an experiment, or of two beside each other, from MLflow."""

from __future__ import annotations

import argparse
import re
import shlex
import sys
from dataclasses import replace
from pathlib import Path

from bench.commands.experiments.names import own_plan, published_name
from bench.console.exit_codes import DONE
from bench.console.options import Subparsers, add_command, add_experiment, add_plan, any_path, output_folder
from bench.machine.revision import revision
from reproduce.errors import UserError
from reproduce.files.disk import naming_full_disk

EXAMPLES = """examples:
  deeper report quickstart                        # writes reports/quickstart/index.html
  deeper report ablation-imagenette --output /project/me/report
  deeper report ablation-imagenette --plan 1f0c9a2e   # as it was planned before it was edited
  deeper report ablation-imagenette --verification verified.json   # with runs that deeper verify repeated
  deeper report study-a study-b                   # the same arms beside each other
  deeper report study@machine=node1 study@machine=node2
  deeper report study@commit=1f0c study@commit=9a2e
  deeper report study study@records=/project/gpu/records
  MLFLOW_TRACKING_URI=http://tracking:5000 deeper report ablation-imagenet
"""


def add_to(subparsers: Subparsers, places: argparse.ArgumentParser) -> None:
    """Add `deeper report` to the command line."""
    help = "Write the report of an experiment: HTML, Markdown, CSV and LaTeX."
    description = (
        f"{help} With a second experiment, compare the two: what differs in recipe and environment first, then the "
        "same arms beside each other. Of both, NAME@machine=HOST, NAME@commit=HASH, NAME@plan=HASH and "
        "NAME@records=FOLDER choose among the runs."
    )
    parser = add_command(subparsers, places, "report", _report, help, description=description, examples=EXAMPLES)
    add_experiment(parser)
    parser.add_argument("other", nargs="?", help="Compare with this experiment.")
    add_plan(parser)
    parser.add_argument(
        "--output",
        type=output_folder,
        metavar="FOLDER",
        help="Write the report here. Default: reports/EXPERIMENT, or reports/EXPERIMENT-OTHER.",
    )
    parser.add_argument(
        "--verification",
        type=any_path,
        action="append",
        default=[],
        metavar="FILE",
        help="Show the repeated runs of this file of `deeper verify --output`. May be repeated.",
    )
    parser.add_argument(
        "--no-attach", action="store_true", help="Leave MLflow as it is; the report is attached to it otherwise."
    )


def _report(arguments: argparse.Namespace) -> int:
    if arguments.other is not None:
        return _comparison(arguments)
    from bench.tracking.location import tracking_uri

    uri = tracking_uri(arguments.records)
    name = published_name(arguments.experiment, arguments.records, uri)

    from analysis.frames import NothingRecordedError
    from analysis.report.writing import write_report
    from bench.records.plan import experiments
    from bench.tracking.background import store_without_room

    folder = arguments.output or output_folder(str(Path("reports") / name))
    own = own_plan(arguments.records, name)
    try:
        with naming_full_disk(folder):
            page = write_report(
                name,
                tracking_uri=uri,
                out=folder,
                plan=arguments.plan,
                own=own,
                verifications=arguments.verification,
                commit=str(revision().get("commit", "")),
            )
            print(page)
    except NothingRecordedError as error:
        if name not in experiments(arguments.records):
            raise
        raise UserError(
            f"experiment: {name!r} has records in {arguments.records}, but none of its runs is in {uri}; "
            f"publish them first: deeper publish {name} --once --records {shlex.quote(str(arguments.records))}"
        ) from error
    if message := store_without_room(arguments.records.resolve()):
        print(message, file=sys.stderr)
    if not arguments.no_attach:
        from bench.tracking.pages.reports import NotAttachedError, attach_report

        try:
            attach_report(name, page, records=arguments.records.resolve(), uri=uri, plan=arguments.plan or own)
        except NotAttachedError as error:
            print(error, file=sys.stderr)
    return DONE


def _comparison(arguments: argparse.Namespace) -> int:
    from analysis.report.comparing.sides import Side, read_selection, read_side
    from analysis.report.comparing.writing import write_comparison
    from bench.tracking.location import embedded_uri, tracking_uri

    if arguments.plan is not None:
        raise UserError(
            f"--plan: {arguments.plan!r} would be of one experiment, and two are compared; write it as NAME@plan=HASH"
        )
    if arguments.verification:
        raise UserError("--verification: is shown in the report of one experiment, and two are compared")
    if arguments.experiment == arguments.other:
        raise UserError(f"report: {arguments.other!r} is named twice, so that there is nothing to compare")
    sides: list[Side] = []
    for letter, text in (("A", arguments.experiment), ("B", arguments.other)):
        selection = read_selection(text)
        given = selection.conditions.get("records")
        records = Path(given) if given else arguments.records
        if given and not records.is_dir():
            raise UserError(f"report: {text!r} names the folder {given}, which does not exist")
        uri = embedded_uri(records) if given else tracking_uri(records)
        name = published_name(selection.experiment, records, uri)
        own = own_plan(records, name)
        sides.append(read_side(letter, replace(selection, experiment=name), tracking_uri=uri, own=own))
    stem = "-".join(re.sub(r"[^\w.-]+", "-", side.text) for side in sides)
    folder = arguments.output or output_folder(str(Path("reports") / stem))
    with naming_full_disk(folder):
        print(write_comparison(sides[0], sides[1], folder))
    return DONE
