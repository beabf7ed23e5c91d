"""Printing: a console that shows text as it was typed, and results as JSON on standard output or in a file."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from reproduce.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console, RenderableType


def plain_console(*, stderr: bool = False) -> Console:
    """Return a console on which `[red]` and `:a:` in the name of an arm are letters, neither markup nor emoji."""
    from rich.console import Console

    return Console(stderr=stderr, markup=False, emoji=False, highlight=False)


def show(console: Console, *parts: RenderableType, style: str | None = None) -> None:
    """Print sentences and tables: wrapped for the width of a terminal, in whole lines to a pipe or a file."""
    for part in parts:
        console.print(part, style=style, soft_wrap=not console.is_terminal)


def print_result(arguments: argparse.Namespace, content: Any, show_text: Callable[[], None]) -> None:
    """Print a verb's result as JSON or as text, and write the JSON if a file is named.

    Args:
        arguments: The parsed options of `bench.console.options.add_json`.
        content: The result for programs.
        show_text: Prints the result for people; called unless --json is given.

    Raises:
        UserError: The file of --output cannot be written.
    """
    text = json.dumps(content, indent=1, ensure_ascii=False)
    if arguments.output is not None:
        try:
            arguments.output.parent.mkdir(parents=True, exist_ok=True)
            arguments.output.write_text(text + "\n", encoding="utf-8")
        except OSError as error:
            raise UserError(f"--output: {arguments.output} cannot be written: {error.strerror}") from error
    if arguments.json:
        print(text)
    else:
        show_text()
