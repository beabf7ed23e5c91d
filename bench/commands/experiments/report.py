"""Implements `deeper report`, which writes the report of an experiment from its runs in MLflow."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from bench.commands.experiments.names import own_plan, published_name
from bench.console.exit_codes import DONE
from bench.console.options import Subparsers, add_command, add_experiment, add_plan, output_folder
from reproduce.errors import UserError
from reproduce.files.disk import naming_full_disk

EXAMPLES = """examples:
  deeper report quickstart                        # writes reports/quickstart/index.html
  deeper report ablation-imagenette --output /project/me/report
  deeper report ablation-imagenette --plan 1f0c9a2e   # as it was planned before it was edited
  MLFLOW_TRACKING_URI=http://tracking:5000 deeper report ablation-imagenet
"""


def add_to(subparsers: Subparsers, places: argparse.ArgumentParser) -> None:
    """Add `deeper report` to the command line."""
    help = "Write the report of an experiment: HTML, Markdown, CSV and LaTeX."
    parser = add_command(subparsers, places, "report", _report, help, examples=EXAMPLES)
    add_experiment(parser)
    add_plan(parser)
    parser.add_argument(
        "--output", type=output_folder, metavar="FOLDER", help="Write the report here. Default: reports/EXPERIMENT."
    )
    parser.add_argument(
        "--no-attach", action="store_true", help="Leave MLflow as it is; the report is attached to it otherwise."
    )


def _report(arguments: argparse.Namespace) -> int:
    from bench.tracking.location import tracking_uri

    uri = tracking_uri(arguments.records)
    name = published_name(arguments.experiment, arguments.records, uri)

    from analysis.frames import NothingRecordedError
    from analysis.report.writing import write_report
    from bench.records.plan import experiments

    folder = arguments.output or output_folder(str(Path("reports") / name))
    own = own_plan(arguments.records, name)
    try:
        with naming_full_disk(folder):
            page = write_report(name, tracking_uri=uri, out=folder, plan=arguments.plan, own=own)
            print(page)
    except NothingRecordedError as error:
        if name not in experiments(arguments.records):
            raise
        raise UserError(
            f"experiment: {name!r} has records in {arguments.records}, but none of its runs is in {uri}; "
            f"publish them first: deeper publish {name} --once --records {arguments.records}"
        ) from error
    if not arguments.no_attach:
        from bench.tracking.pages.reports import NotAttachedError, attach_report

        try:
            attach_report(name, page, uri=uri, plan=arguments.plan or own)
        except NotAttachedError as error:
            print(error, file=sys.stderr)
    return DONE
