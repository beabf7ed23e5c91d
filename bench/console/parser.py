"""Parses the command line with argparse, suggests the name of a mistyped subcommand, and refuses empty values."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from reproduce.errors import UserError, did_you_mean


class Parser(argparse.ArgumentParser):
    """An `ArgumentParser` that reports an unknown subcommand as a `UserError` with a suggestion.

    Its subparsers are of this class as well.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._subcommands: argparse.Action | None = None

    def add_subparsers(self, **options: Any) -> Any:
        """Add subparsers as `ArgumentParser` does. Pass a `metavar`, by which messages name the kind of subcommand."""
        self._subcommands = action = super().add_subparsers(**options)
        return action

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> tuple[Any, list[str]]:
        """Parse the command line as `ArgumentParser` does.

        Raises:
            UserError: The parser has subcommands, and the first word is neither an option nor one of them. The message
                lists the subcommands.
            SystemExit: Something else is wrong with the command line, such as the empty value of an argument.
        """
        words = sys.argv[1:] if args is None else list(args)
        if self._subcommands is not None and words and not words[0].startswith("-"):
            known = list(self._subcommands.choices or ())
            if words[0] not in known:
                kind = str(self._subcommands.metavar).lower()
                hint = did_you_mean(words[0], known)
                raise UserError(f"{kind}: `{self.prog}` has no {words[0]!r}{hint}\nvalid: {', '.join(known)}")
        parsed, left = super().parse_known_args(words, namespace)
        for action in self._actions:
            value = getattr(parsed, action.dest, None)
            if "" in (value if isinstance(value, list) else [value]):  # often of a shell's variable that is not set
                field = "/".join(action.option_strings) or action.metavar or action.dest
                self.error(f"argument {field}: '' is no value; give one, or leave it out if it is optional")
        return parsed, left
