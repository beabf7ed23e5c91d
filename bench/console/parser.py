"""The parser of the command line: argparse, with a suggestion for a mistyped verb."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from reproduce.errors import UserError, did_you_mean


class Parser(argparse.ArgumentParser):
    """An `ArgumentParser` whose subcommands are looked up by name first; its subparsers do the same."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._subcommands: argparse.Action | None = None

    def add_subparsers(self, **options: Any) -> Any:
        self._subcommands = action = super().add_subparsers(**options)
        return action

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> tuple[Any, list[str]]:
        """Parse the command line.

        Raises:
            UserError: The first word is not one of the subcommands.
        """
        words = sys.argv[1:] if args is None else list(args)
        if self._subcommands is not None and words and not words[0].startswith("-"):
            known = list(self._subcommands.choices or ())
            if words[0] not in known:
                kind = str(self._subcommands.metavar).lower()
                hint = did_you_mean(words[0], known)
                raise UserError(f"{kind}: `{self.prog}` has no {words[0]!r}{hint}\nvalid: {', '.join(known)}")
        return super().parse_known_args(words, namespace)
