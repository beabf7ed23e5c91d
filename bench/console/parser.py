"""The parser of the command line: argparse, with a suggestion for a mistyped verb."""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from reproduce.errors import UserError


def suggestion(word: str, known: Iterable[str]) -> str:
    """Return "; did you mean NAME?" for the known name that is most similar to `word`, or an empty string."""
    close = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {close[0]}?" if close else ""


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
                hint = suggestion(words[0], known)
                raise UserError(f"{kind}: `{self.prog}` has no {words[0]!r}{hint}\nvalid: {', '.join(known)}")
        return super().parse_known_args(words, namespace)
