"""Implements `deeper archive`, which packs the records of an experiment for an archive of research data."""

from __future__ import annotations

import argparse
from pathlib import Path

from bench.commands.experiments.names import recorded_name
from bench.console.exit_codes import DONE
from bench.console.options import Subparsers, add_command, add_experiment, add_plan, folder, output_file
from bench.console.output import plain_console, show, writing
from reproduce.errors import UserError

EXAMPLES = """examples:
  deeper archive ablation-imagenette --license CC-BY-4.0 --output ablation.zip
  deeper archive ablation-imagenette --license CC-BY-4.0 --author "Ann Lee (0000-0002-1825-0097)" \\
      --report reports/ablation-imagenette --output ablation.zip

The file is an RO-Crate, which archives such as Zenodo and WorkflowHub understand. Unpacked, its folder `records` can be
published, reported and verified like any other: deeper publish --once --records ablation/records
"""


def add_to(subparsers: Subparsers, places: argparse.ArgumentParser) -> None:
    """Add `deeper archive` to the command line."""
    help = "Pack the records of an experiment as an RO-Crate, for an archive of research data."
    parser = add_command(subparsers, places, "archive", _archive, help, examples=EXAMPLES)
    add_experiment(parser)
    add_plan(parser)
    parser.add_argument(
        "--output", required=True, type=output_file, metavar="FILE", help="Write this zip file, a new one."
    )
    parser.add_argument(
        "--license",
        required=True,
        metavar="LICENSE",
        help="The licence of the records, which archives ask for: an identifier of SPDX such as CC-BY-4.0, or the URL "
        "of its text.",
    )
    parser.add_argument(
        "--author",
        action="append",
        default=[],
        metavar="NAME",
        help="Name this author, with an ORCID in brackets if there is one. May be repeated.",
    )
    parser.add_argument(
        "--report", type=folder, metavar="FOLDER", help="Include this folder, a report of the experiment."
    )
    parser.add_argument("--weights", action="store_true", help="Include the weights of finished runs.")


def _archive(arguments: argparse.Namespace) -> int:
    output: Path = arguments.output
    if output.suffix != ".zip":
        raise UserError(f"--output: {str(output)!r} does not end in .zip, which the file is; name it so")
    if output.exists():
        raise UserError(f"--output: {output} exists; name another file, or move this one away")
    if arguments.report is not None and not (arguments.report / "index.html").is_file():
        raise UserError(f"--report: {arguments.report} holds no index.html; name a folder that `deeper report` wrote")

    from bench.records.archiving.contents import choose_contents
    from bench.records.archiving.crate import Citation, require_rocrate, write_archive

    require_rocrate()
    citation = Citation(license=arguments.license, authors=arguments.author)
    name = recorded_name(arguments.experiment, arguments.records)
    contents = choose_contents(arguments.records, name, plan=arguments.plan, weights=arguments.weights)
    with writing("--output", output):
        output.parent.mkdir(parents=True, exist_ok=True)
        write_archive(output, arguments.records, contents, citation, report=arguments.report)
    files = len(contents.of_experiment) + sum(map(len, contents.of_runs.values()))
    show(
        plain_console(),
        f"{output}: {contents.finished} of {len(contents.plan)} runs finished, {files} files of the records"
        f"{' and the report' if arguments.report else ''}, {output.stat().st_size / 2**20:.1f} MiB",
    )
    return DONE
