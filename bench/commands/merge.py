"""Implements `deeper merge`, which pools records of several machines or people into one folder of records."""

from __future__ import annotations

import argparse
import shlex
from typing import Any

from bench.console.exit_codes import DONE
from bench.console.options import Subparsers, add_command, add_json, any_path, name, output_folder
from bench.console.output import plain_console, print_result, show
from reproduce.errors import UserError

EXAMPLES = """examples:
  deeper merge /project/ann/records /project/bob/records --into pooled
  deeper merge results/ablation-imagenette records --experiment ablation-imagenette --into pooled
  deeper publish --once --records pooled && deeper report ablation-imagenette --records pooled

The folders that are read stay as they are. A run that several of them have is taken once: the longer one if one record
continues the other, else the only finished one. Records of two trainings of one run are an error, unless --first-wins
takes the folder that is named first. An existing folder --into is the first of all. The same command goes on where an
interrupted one stopped.
"""
RECORDS = "records"


def add_to(subparsers: Subparsers, places: argparse.ArgumentParser) -> None:
    """Add `deeper merge` to the command line."""
    help = "Pool the records of several machines or people into one folder."
    parser = add_command(subparsers, None, "merge", _merge, help, examples=EXAMPLES)
    parser.add_argument(
        "source", nargs="+", type=any_path, metavar="RECORDS", help="A folder of records or of results."
    )
    parser.add_argument(
        "--into", type=output_folder, required=True, metavar="FOLDER", help="The folder of records to write."
    )
    parser.add_argument(
        "--experiment", action="append", default=[], type=name, help="Pool only this experiment. May be repeated."
    )
    parser.add_argument(
        "--first-wins", action="store_true", help="Of two trainings of one run, take that of the folder named first."
    )
    add_json(parser)


def _merge(arguments: argparse.Namespace) -> int:
    from bench.planning.plan import check_disk
    from bench.records.merging.choosing import choose
    from bench.records.merging.copying import copy, size_of
    from bench.records.plan import experiments

    into = arguments.into.resolve()
    given = [(source / RECORDS if (source / RECORDS).is_dir() else source).resolve() for source in arguments.source]
    for source in given:
        if source == into:
            raise UserError(f"--into: {arguments.into} is one of the folders that are read; name another folder")
    sources = list(dict.fromkeys([*([into] if experiments(into) else []), *given]))
    pooled = choose(sources, arguments.experiment, first_wins=arguments.first_wins)
    check_disk(into, size_of(pooled, into))
    copied = copy(pooled, sources, into)
    content: dict[str, Any] = {
        "into": str(arguments.into),
        "experiments": {experiment: len(entries) for experiment, entries in pooled.plans.items()},
        "copied": copied,
        "runs": {key: str(source) for key, source in pooled.runs.items()},
        "repeated": pooled.repeated,
        "absent": pooled.absent,
    }
    print_result(arguments, content, lambda: _show(content))
    return DONE


def _show(content: dict[str, Any]) -> None:
    console = plain_console()
    for experiment, runs in content["experiments"].items():
        show(console, f"{experiment}: {runs} planned runs")
    show(
        console,
        f"{content['into']}: {len(content['runs'])} runs, {len(content['copied'])} of them copied now; "
        f"{content['repeated']} further copies left out, {content['absent']} planned runs not begun",
        f"next: deeper publish --once --records {shlex.quote(content['into'])}",
    )
