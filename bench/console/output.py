"""Prints text without interpreting it as markup, and results as text or JSON."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from reproduce.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console, RenderableType


def plain_console(*, stderr: bool = False) -> Console:
    """Return a console that prints `[red]` and `:a:` literally instead of as markup or emoji.

    Args:
        stderr: Whether the console prints to standard error rather than to standard output.
    """
    from rich.console import Console

    class PlainConsole(Console):
        def on_broken_pipe(self) -> None:
            raise BrokenPipeError  # rich would end the process with exit code 1; `bench.cli` ends it with 0

    return PlainConsole(stderr=stderr, markup=False, emoji=False, highlight=False)


def show(console: Console, *parts: RenderableType, style: str | None = None) -> None:
    """Print sentences and tables, which are wrapped at the width of a terminal but not in a pipe or a file.

    Args:
        console: The console to print to.
        *parts: The sentences and tables, each of which starts on a new line.
        style: The style of all parts, such as "yellow". None leaves their own.
    """
    for part in parts:
        console.print(part, style=style, soft_wrap=not console.is_terminal)


def print_result(arguments: argparse.Namespace, content: Any, show_text: Callable[[], None]) -> None:
    """Print the result of a command as text or, with --json, as JSON, and write the JSON to the file of --output.

    Args:
        arguments: The parsed command line, with the options that `bench.console.options.add_json` added.
        content: The result for programs, which must be JSON-serialisable.
        show_text: Prints the result for people. It is called unless --json is given.

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
