"""What the parsers of several verbs have in common."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any


def add_verb(
    verbs: Any,
    places: argparse.ArgumentParser,
    name: str,
    call: Callable[[argparse.Namespace], int],
    help: str,
    *,
    examples: str | None = None,
) -> argparse.ArgumentParser:
    """A verb with the options of `places` (--records, --data); `examples` stand below its options."""
    parser: argparse.ArgumentParser = verbs.add_parser(
        name,
        parents=[places],
        help=help,
        description=help,
        epilog=examples,
        formatter_class=argparse.RawDescriptionHelpFormatter if examples else argparse.HelpFormatter,
    )
    parser.set_defaults(call=call)
    return parser


def add_experiment(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("experiment", help="a file (*.yaml) or the name of a shipped experiment")


def add_choice(parser: argparse.ArgumentParser) -> None:
    """The options that choose among the runs of a plan."""
    parser.add_argument("--arm", action="append", default=[], help="only this arm (may be repeated)")
    parser.add_argument("--seed", action="append", default=[], type=int, help="only this seed (may be repeated)")


def add_retry(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--retry-failed", action="store_true", help="try runs again that failed before")
