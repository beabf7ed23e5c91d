"""Options that several verbs share, and how a verb is added to the parser."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

HELP_WIDTH = 80


class Verbs(Protocol):
    """What `ArgumentParser.add_subparsers` returns."""

    def add_parser(self, name: str, **options: Any) -> argparse.ArgumentParser: ...


def add_verb(
    verbs: Any,
    places: argparse.ArgumentParser | None,
    name: str,
    call: Callable[[argparse.Namespace], int],
    help: str,
    *,
    description: str | None = None,
    examples: str | None = None,
) -> argparse.ArgumentParser:
    """Add a verb to the parser.

    Args:
        verbs: The subparsers to add it to.
        places: Parent parser with --records and --data; None for a verb that needs neither.
        name: The verb as it is typed.
        call: Runs the verb and returns the exit code.
        help: One line for the list of verbs.
        description: First paragraph of the verb's own help, if it says more than `help`.
        examples: Printed as it is below the options.
    """
    parser: argparse.ArgumentParser = verbs.add_parser(
        name,
        parents=[places] if places else [],
        help=help,
        description=textwrap.fill(description or help, HELP_WIDTH),
        epilog=examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(call=call)
    return parser


def add_experiment(parser: argparse.ArgumentParser) -> None:
    """Add the positional argument that names an experiment."""
    parser.add_argument(
        "experiment", help="The file of an experiment (*.yaml), or a name that `deeper experiments` lists."
    )


def add_choice(parser: argparse.ArgumentParser) -> None:
    """Add the options that choose among the runs of a plan."""
    parser.add_argument("--arm", action="append", default=[], help="Take only this arm. May be repeated.")
    parser.add_argument("--seed", action="append", default=[], type=int, help="Take only this seed. May be repeated.")


def add_retry(parser: argparse.ArgumentParser) -> None:
    """Add the option that repeats failed runs."""
    parser.add_argument("--retry-failed", action="store_true", help="Repeat the runs that failed before.")


def add_json(parser: argparse.ArgumentParser) -> None:
    """Add --json, which prints to standard output, and --output, which writes the same to a file."""
    parser.add_argument("--json", action="store_true", help="Print JSON to standard output in place of text.")
    parser.add_argument("--output", type=Path, metavar="FILE", help="Write the JSON to this file as well.")
