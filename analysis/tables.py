"""Numbers as text, and tables as Markdown and LaTeX. The report's page renders the same tables as HTML.

Percents, points, intervals and p values have one form each, which reports, findings on claims and documents share.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import pandas as pd

DASH = "—"
"""Printed where a value is missing."""
MINUS = "−"


def is_missing(value: object) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def number(value: float, digits: int = 0) -> str:
    """A number with digits in groups of three, for example "1 234.5"."""
    return DASH if is_missing(value) else f"{value:z,.{digits}f}".replace("-", MINUS).replace(",", "\u202f")


def signed(value: float, digits: int = 2) -> str:
    """A number with its sign, for example "+1.20"."""
    return DASH if is_missing(value) else f"{value:+z.{digits}f}".replace("-", MINUS)


def percent(fraction: float, digits: int = 2) -> str:
    """A fraction in percent, without the sign of percent."""
    return number(100 * fraction, digits)


def points(fraction: float, digits: int = 2) -> str:
    """A difference of fractions in percentage points, with its sign."""
    return signed(100 * fraction, digits)


def interval(low: float, high: float, show: Callable[[float, int], str], digits: int = 2) -> str:
    """An interval in brackets, for example "[+0.84, +3.35]"; `show` prints its ends."""
    return DASH if is_missing(low) else f"[{show(low, digits)}, {show(high, digits)}]"


def p_value(p: float) -> str:
    if is_missing(p):
        return DASH
    return "< 0.001" if p < 0.001 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"


def quantity(value: float) -> str:
    """Three digits with a decimal prefix, for example "13.0 M" or "1.58 G"."""
    if is_missing(value):
        return DASH
    for power, prefix in ((9, "G"), (6, "M"), (3, "k")):
        if abs(value) >= 10**power * 0.9995:
            scaled = value / 10**power
            return f"{scaled:.{max(0, 2 - int(math.log10(abs(scaled))))}f} {prefix}"
    return f"{value:g}"


def duration(seconds: float) -> str:
    """A time in seconds, minutes or hours, for example "6.7 min"."""
    if is_missing(seconds):
        return DASH
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = seconds / 60
    if minutes < 90:
        return f"{minutes:.0f} min" if minutes >= 10 else f"{minutes:.1f} min"
    return f"{minutes / 60:.1f} h"


def counted(number: int, noun: str) -> str:
    """A number with its noun, for example "1 run" or "3 runs"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


@dataclass(frozen=True)
class Cell:
    """A cell of a table."""

    text: str
    aside: str = ""
    """In small print behind the text, for example an interval."""
    sort: float | str = ""
    """What the report's page sorts the column by."""

    @property
    def plain(self) -> str:
        return f"{self.text} {self.aside}".strip()


@dataclass(frozen=True)
class Table:
    """A table, described once and rendered as Markdown, as LaTeX and on the report's page."""

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    text_columns: frozenset[int] = field(default_factory=lambda: frozenset({0}))
    """Indices of the columns that are aligned left. The others hold numbers and are aligned right."""

    def markdown(self) -> str:
        head = "| " + " | ".join(self.columns) + " |"
        rule = "|" + "|".join("---" if i in self.text_columns else "--:" for i in range(len(self.columns))) + "|"
        body = ["| " + " | ".join(cell.plain.replace("|", "\\|") for cell in row) + " |" for row in self.rows]
        return "\n".join([head, rule, *body])

    def latex(self, label: str) -> str:
        """A table environment in the style of the booktabs package, with the label `tab:LABEL`. The text is ASCII."""
        frame = pd.DataFrame([[cell.plain for cell in row] for row in self.rows], columns=list(self.columns))
        styler = frame.style.hide(axis="index").format(escape="latex").format_index(escape="latex", axis=1)
        text = styler.to_latex(
            hrules=True,
            column_format="".join("l" if i in self.text_columns else "r" for i in range(len(self.columns))),
            caption=self.caption.replace("%", r"\%"),
            label=f"tab:{label}",
            position="tbp",
            position_float="centering",
        )
        for symbol, command in ((DASH, "---"), (MINUS, "$-$"), ("×", r"$\times$"), ("\u202f", r"\,"), ("< ", "$<$ ")):
            text = text.replace(symbol, command)
        return text
