"""Lays out tables that never cut a name or a number, however narrow the terminal is.

Columns and rows of text come in; lines that fit the width go out. Sentences wrap between words. If the columns do not
fit, the least important ones are left out and named in a line below the table. If even the essential columns do not
fit, each row becomes a block of lines with all its cells.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from bench.console.output import printable

Cell = str | Text

GAP = 2
"""Terminal cells between two columns."""
PROSE_WIDTH = 24
"""The smallest width of a column of sentences, in terminal cells."""
INDENT = 6
"""Indentation, in terminal cells, of a sentence with a word wider than its column, which goes below its row."""


@dataclass(frozen=True)
class Column:
    """A column of a `FittedTable`."""

    title: str
    justify: Literal["left", "right"] = "left"
    priority: int = 0
    """0 if the column is essential. Among the other columns, the one with the largest number is left out first."""
    prose: bool = False
    """Whether the cells hold sentences, which may be wrapped. Only the last column may hold sentences."""


@dataclass(frozen=True)
class FittedTable:
    """A table that adapts to the width of the terminal. Print it with `bench.console.output.show`.

    A pipe or a file has no width: the table then shows every column, and sentences are not wrapped.
    """

    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]
    """The rows, with one cell for each column. A string is printed literally; a cell with a style is a `Text`."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width = sys.maxsize if options.no_wrap else options.max_width
        shown = self._fitting_columns(width)
        if not shown:
            yield from self._blocks(width)
            return
        yield from self._lines(shown, width)
        hidden = [column.title for index, column in enumerate(self.columns) if index not in shown]
        if hidden and self.rows:
            yield Text(f"left out, because the terminal is too narrow: {'; '.join(hidden)}", style="dim")

    def _fitting_columns(self, width: int) -> list[int]:
        """Return the indices of the columns to show, or an empty list if the essential columns do not fit."""
        shown = list(range(len(self.columns)))
        by_priority = sorted(shown, key=lambda index: -self.columns[index].priority)
        while sum(self._min_width(index) for index in shown) + GAP * (len(shown) - 1) > width:
            least = by_priority.pop(0)
            if self.columns[least].priority == 0:
                return []
            shown.remove(least)
        return shown

    def _min_width(self, index: int) -> int:
        width = self._natural_width(index)
        return min(width, PROSE_WIDTH) if self.columns[index].prose else width

    def _natural_width(self, index: int) -> int:
        cells = [Text(self.columns[index].title), *(_as_text(row[index]) for row in self.rows)]
        return max(line.cell_len for cell in cells for line in cell.split() or [cell])

    def _lines(self, shown: Sequence[int], width: int) -> Iterator[Text]:
        widths = [self._natural_width(index) for index in shown]
        if self.columns[shown[-1]].prose:
            widths[-1] = min(widths[-1], width - sum(widths[:-1]) - GAP * (len(shown) - 1))
        titles = [Text(self.columns[index].title, style="bold") for index in shown]
        if any(title.plain for title in titles):
            yield from self._row(shown, titles, widths, width)
        for row in self.rows:
            yield from self._row(shown, [_as_text(row[index]) for index in shown], widths, width)

    def _row(self, shown: Sequence[int], cells: Sequence[Text], widths: Sequence[int], width: int) -> Iterator[Text]:
        """Yield the lines of one row; a sentence with a word wider than its column goes below it."""
        wrapped: list[list[Text]] = []
        below = None
        for index, cell, cell_width in zip(shown, cells, widths, strict=True):
            if not self.columns[index].prose:
                wrapped.append(list(cell.split()) or [cell])
            elif _longest_word(cell) <= cell_width:
                wrapped.append(_wrap(cell, cell_width))
            else:
                wrapped.append([])
                below = cell
        for number in range(max(map(len, wrapped))):
            line = Text()
            for index, lines, cell_width in zip(shown, wrapped, widths, strict=True):
                text = lines[number].copy() if number < len(lines) else Text()
                padding = " " * (cell_width - text.cell_len)
                line.append(padding if self.columns[index].justify == "right" else "")
                line.append_text(text)
                line.append(padding if self.columns[index].justify == "left" else "")
                line.append(" " * GAP)
            line.rstrip()
            yield line
        if below is not None:
            for text in _wrap(below, max(1, width - INDENT)):
                yield Text(" " * INDENT).append_text(text)

    def _blocks(self, width: int) -> Iterator[Text]:
        """Yield each row as a heading, made of the cells up to the first column with a title, and one line per cell."""
        headed = next((number for number, column in enumerate(self.columns, 1) if column.title), 1)
        for row in self.rows:
            yield Text(" " * GAP).join(cell for cell in map(_as_text, row[:headed]) if cell.plain)
            for column, cell in zip(self.columns[headed:], map(_as_text, row[headed:]), strict=True):
                if cell.plain:
                    title = Text(f"{column.title}: " if column.title else "", style="dim")
                    for text in _wrap(Text().append_text(title).append_text(cell), max(1, width - GAP)):
                        yield Text(" " * GAP).append_text(text)


def _as_text(cell: Cell) -> Text:
    text = cell.copy() if isinstance(cell, Text) else Text(cell)
    text.plain = printable(text.plain)  # before it is measured
    return text


def _longest_word(text: Text) -> int:
    return max((cell_len(word) for word in text.plain.split()), default=0)


def _wrap(text: Text, width: int) -> list[Text]:
    """Wrap between words only; a word wider than `width` stands on a line of its own."""
    lines: list[Text] = []
    for paragraph in text.split():
        breaks, used = [], 0
        for word in re.finditer(r"\S+\s*", paragraph.plain):
            if used and used + cell_len(word.group().rstrip()) > width:
                breaks.append(word.start())
                used = 0
            used += cell_len(word.group())
        lines += paragraph.divide(breaks)
    for line in lines:
        line.rstrip()
    return lines
