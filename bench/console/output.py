"""Prints text that others wrote without interpreting it, and results as text or JSON."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.console.options import HELP_WIDTH
from reproduce.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.segment import Segment

UNPRINTABLE = {
    **{code: 0x2400 + code for code in range(0x20) if chr(code) not in "\n\t"},
    0x7F: 0x2421,
    **dict.fromkeys(
        [*range(0x80, 0xA0), 0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A)], 0xFFFD
    ),
    **dict.fromkeys(range(0xD800, 0xE000), 0xFFFD),
}
"""What is shown in place of characters that command a terminal, reverse the order of a text, or are none."""


def printable(text: str) -> str:
    """Return a text that a terminal shows as it is, with a symbol for each character that would command the terminal.

    The text of an error may hold colours, a moving cursor, or a new title of the window. Its length does not change.
    """
    return text.translate(UNPRINTABLE)


def plain_console(*, stderr: bool = False) -> Console:
    """Return a console that prints `[red]`, `:a:` and control characters literally instead of interpreting them.

    Args:
        stderr: Whether the console prints to standard error rather than to standard output.
    """
    from rich.console import Console
    from rich.segment import Segment

    class PlainConsole(Console):
        def on_broken_pipe(self) -> None:
            raise BrokenPipeError  # rich would end the process with exit code 1; `bench.cli` ends it with 0

        def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
            for text, style, control in super().render(renderable, options):
                yield Segment(text if control else printable(text), style, control)

    console = PlainConsole(stderr=stderr, markup=False, emoji=False, highlight=False)
    if console.width < 1:  # of COLUMNS=0, for which rich prints nothing
        console.width = HELP_WIDTH
    return console


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
        content: The result for programs, which must be JSON-serialisable. JSON has neither infinity nor NaN, so they
            become the strings "Infinity", "-Infinity" and "NaN", as in records.
        show_text: Prints the result for people. It is called unless --json is given.

    Raises:
        UserError: The file of --output cannot be written.
    """
    text = json.dumps(_finite(content), indent=1, ensure_ascii=False, allow_nan=False)
    if arguments.output is not None:
        write_output("--output", arguments.output, text + "\n")
    if arguments.json:
        print(text)
    else:
        show_text()


def write_output(option: str, path: Path, text: str) -> None:
    """Write a text to the file that an option names, and create the file's folder if necessary.

    Raises:
        UserError: The file cannot be written.
    """
    with writing(option, path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8", errors="backslashreplace")  # names of files need not be Unicode


@contextmanager
def writing(option: str, path: Path) -> Iterator[None]:
    """Turn the system's refusal to write what an option names into a `UserError`."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{option}: {path} cannot be written: {error.strerror}; name another place") from error


def _finite(content: Any) -> Any:
    """Replace infinity and NaN, which JSON does not have, by the strings that stand for them in records."""
    if isinstance(content, float) and not math.isfinite(content):
        return "NaN" if math.isnan(content) else "Infinity" if content > 0 else "-Infinity"
    if isinstance(content, Mapping):
        return {name: _finite(value) for name, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [_finite(value) for value in content]
    return content
