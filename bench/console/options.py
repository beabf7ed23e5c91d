"""Adds subcommands to the parser and options that several subcommands share, and checks the values of options.

A function that checks a value is passed to `add_argument` as `type`. It raises `argparse.ArgumentTypeError`, whose
message argparse prints with the option's name before it ends the command with exit code 2.
"""

from __future__ import annotations

import argparse
import math
import os
import re
import textwrap
import unicodedata
from argparse import ArgumentTypeError
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from reproduce.errors import UserError

HELP_WIDTH = 80


class Subparsers(Protocol):
    """The interface of the object that `ArgumentParser.add_subparsers` returns."""

    def add_parser(self, name: str, **options: Any) -> argparse.ArgumentParser:
        """Add a subcommand and return its parser. The options are those of `ArgumentParser`, and `help`."""
        ...


def add_command(
    subparsers: Any,
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
        subparsers: The subparsers that the subcommand is added to.
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
    parser: argparse.ArgumentParser = subparsers.add_parser(
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
    parser.add_argument("--arm", action="append", default=[], type=name, help="Take only this arm. May be repeated.")
    parser.add_argument(
        "--seed", action="append", default=[], type=whole_number(0), help="Take only this seed. May be repeated."
    )


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
    parser.add_argument("--output", type=output_file, metavar="FILE", help="Write the JSON to this file as well.")


def require_writable_records(arguments: argparse.Namespace) -> None:
    """Check that the folder of --records can be written or created.

    Only subcommands that write records call this: others may show those of somebody else.

    Raises:
        UserError: The folder can neither be written nor created.
    """
    try:
        _check_writable(arguments.records, str(arguments.records))
    except ArgumentTypeError as error:
        raise UserError(f"--records: {error}") from None


# --- values of options -------------------------------------------------------------------------------


def name(text: str) -> str:
    """Read a name in the form of Unicode in which names are recorded."""
    return unicodedata.normalize("NFC", text)


def whole_number(least: int, most: int | None = None) -> Callable[[str], int]:
    """Return a function that reads a whole number from `least` to `most`, or without an upper limit."""
    valid = f"at least {least}" if most is None else f"from {least} to {most}"

    def read(text: str) -> int:
        if not re.fullmatch(r"[-+]?[0-9]{1,18}", text.strip()):
            raise ArgumentTypeError(f"{_shown(text)} is not a whole number; use one {valid}")
        value = int(text)
        if value < least or (most is not None and value > most):
            raise ArgumentTypeError(f"{value} is not {valid}")
        return value

    return read


def positive_number(text: str) -> float:
    """Read a finite number above 0."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise ArgumentTypeError(f"{_shown(text)} is not a positive number; use one above 0, such as 1 or 0.5")
    return value


def number(least: float, most: float) -> Callable[[str], float]:
    """Return a function that reads a number from `least`, which is above 0, to `most`."""

    def read(text: str) -> float:
        value = positive_number(text)
        if not least <= value <= most:
            raise ArgumentTypeError(f"{_shown(text)} is not from {least:g} to {most:g}")
        return value

    return read


def not_negative_number(text: str) -> float:
    """Read a finite number that is 0 or above."""
    return 0.0 if re.fullmatch(r"[-+]?0*\.?0+", text.strip()) else positive_number(text)


port = whole_number(1, 65535)
"""Reads the number of a TCP port."""


def cluster_address(text: str) -> str:
    """Read the address of a Ray cluster: HOST:PORT, with an IPv6 address in brackets, or `auto`."""
    match = re.fullmatch(r"(?:\[[0-9a-fA-F:.%]+\]|[^\s:/\[\]]+):([0-9]{1,5})", text)
    if text != "auto" and not (match and 1 <= int(match[1]) <= 65535):
        raise ArgumentTypeError(f"{_shown(text)} is not the address of a Ray cluster; use auto or HOST:PORT")
    return text


def folder(text: str) -> Path:
    """Read the path of a folder, which need not exist."""
    path = any_path(text)
    if os.path.lexists(path) and not path.is_dir():
        raise ArgumentTypeError(f"{_shown(text)} is not a folder; name a folder, which need not exist yet")
    return path


def existing_folder(text: str) -> Path:
    """Read the path of a folder that exists."""
    path = folder(text)
    if not path.is_dir():
        raise ArgumentTypeError(f"{_shown(text)}: no such folder; name one that exists")
    return path


def output_folder(text: str) -> Path:
    """Read the path of a folder that can be written, or that can be created."""
    path = folder(text)
    _check_writable(path, text)
    return path


def output_file(text: str) -> Path:
    """Read the path of a file that can be written. Its folder need not exist."""
    path = file(text)
    _check_writable(path, text)
    return path


def file(text: str) -> Path:
    """Read the path of a file, which need not exist."""
    path = any_path(text)
    if path.is_dir():
        raise ArgumentTypeError(f"{_shown(text)} is a folder; name a file")
    return path


def any_path(text: str) -> Path:
    """Read a path that the system takes, whether or not something is there."""
    if not text:  # often of a variable of the shell that is not set, and `Path` would take the current folder
        raise ArgumentTypeError("'' is no path; name a place, such as . for the current folder")
    path = Path(text)
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        pass  # which part of the path is to blame is found out elsewhere
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise ArgumentTypeError(f"{_shown(text)} cannot be used: {reason}; name another place") from error
    return path


def _check_writable(path: Path, text: str) -> None:
    """Check that a file or folder can be written or, if it does not exist, can be created below what does."""
    there = path.absolute()
    while not os.path.lexists(there):
        there = there.parent
    if there != path.absolute() and not there.is_dir():
        raise ArgumentTypeError(f"{_shown(text)} cannot be written, since {there} is not a folder; name another place")
    if not os.access(there, os.W_OK, effective_ids=True):
        raise ArgumentTypeError(f"{_shown(text)} cannot be written: {there} does not allow it; name another place")


def _shown(text: str) -> str:
    return repr(text) if len(text) <= 80 else f"{text[:40]!r}... ({len(text)} characters)"
