"""Adds subcommands to the parser, and options that several subcommands share."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

HELP_WIDTH = 80


class Verbs(Protocol):
    """The interface of the object that `ArgumentParser.add_subparsers` returns."""

    def add_parser(self, name: str, **options: Any) -> argparse.ArgumentParser:
        """Add a subcommand and return its parser. The options are those of `ArgumentParser`, and `help`."""
        ...


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
    """Add a subcommand to the parser.

    Args:
        verbs: The subparsers that the subcommand is added to.
        places: The parent parser with --records and --data. None for a subcommand that needs neither.
        name: The name of the subcommand as users type it.
        call: The function that runs the subcommand. It takes the parsed command line and returns the exit code; the
            parsed command line has it as `call`.
        help: One line for the list of subcommands.
        description: The first paragraph of the subcommand's own help. None repeats `help`.
        examples: Text that is printed below the options without being wrapped.

    Returns:
        The parser of the subcommand, for options to be added.
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
    """Add the positional argument `experiment`, the name or the file of an experiment."""
    parser.add_argument(
        "experiment", help="The file of an experiment (*.yaml), or a name that `deeper experiments` lists."
    )


def add_choice(parser: argparse.ArgumentParser) -> None:
    """Add --arm and --seed, which choose among the runs of a plan. Both may be repeated."""
    parser.add_argument("--arm", action="append", default=[], help="Take only this arm. May be repeated.")
    parser.add_argument("--seed", action="append", default=[], type=int, help="Take only this seed. May be repeated.")


def add_plan(parser: argparse.ArgumentParser) -> None:
    """Add --plan, which names an older plan of an experiment."""
    parser.add_argument(
        "--plan",
        metavar="HASH",
        help="Take the runs of this plan of the experiment. Default: its present plan. The beginning suffices.",
    )


def add_retry(parser: argparse.ArgumentParser) -> None:
    """Add --retry-failed, which repeats failed runs."""
    parser.add_argument("--retry-failed", action="store_true", help="Repeat the runs that failed before.")


def add_json(parser: argparse.ArgumentParser) -> None:
    """Add --json, which prints the result as JSON, and --output, which writes the JSON to a file as well."""
    parser.add_argument("--json", action="store_true", help="Print JSON to standard output in place of text.")
    parser.add_argument("--output", type=Path, metavar="FILE", help="Write the JSON to this file as well.")
