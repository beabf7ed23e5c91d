"""Formats numbers as text, and tables as Markdown and LaTeX. The report's page renders the same tables as HTML.

Reports, findings on claims and documents share one format each for percentages, points, intervals and p values. A
missing number (None or NaN) is shown as a dash, and an infinite one as ∞.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from reproduce.text.markdown import as_cell, as_markdown

DASH = "—"
"""The text for a missing value."""
MINUS = "−"
LATEX = str.maketrans(
    {
        **{character: f"\\{character}" for character in "&%$#_{}"},
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
    }
)
"""LaTeX's special characters, escaped."""
LATEX_COMMANDS = {
    **{DASH: "---", MINUS: "$-$", "×": r"$\times$", "∞": r"$\infty$", "\u202f": r"\,"},
    **{character: f"${character}$" for character in "<>|"},
}
"""Symbols of tables and the commands that print them. LaTeX's first encoding has others in place of <, > and |."""


def is_missing(value: object) -> bool:
    """Return whether a value is None or NaN."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def special(value: float) -> str:
    """Format a value that is missing or infinite. The result is empty for any other number."""
    if is_missing(value):
        return DASH
    return f"{MINUS if value < 0 else ''}∞" if math.isinf(value) else ""


def number(value: float, digits: int = 0) -> str:
    """Format a number with digits in groups of three and `digits` decimals, for example "1 234.5"."""
    return special(value) or f"{value:z,.{digits}f}".replace("-", MINUS).replace(",", "\u202f")


def signed(value: float, digits: int = 2) -> str:
    """Format a number with its sign and `digits` decimals, for example "+1.20"."""
    return special(value) or f"{value:+z.{digits}f}".replace("-", MINUS)


def percent(fraction: float, digits: int = 2) -> str:
    """Format a fraction in percent, without a percent sign: 0.125 becomes "12.50"."""
    return number(100 * fraction, digits)


def points(fraction: float, digits: int = 2) -> str:
    """Format a difference of fractions in percentage points, with its sign: 0.012 becomes "+1.20"."""
    return signed(100 * fraction, digits)


def with_sign_of_zero(text: str, value: float) -> str:
    """Give the text of a number below 0 its minus sign if it was rounded to nothing: an interval may end just there."""
    return f"{MINUS}{text.removeprefix('+')}" if value < 0 and not text.startswith(MINUS) else text


def interval(low: float, high: float, show: Callable[[float, int], str], digits: int = 2) -> str:
    """Format an interval in brackets, for example "[+0.84, +3.35]".

    Args:
        low: Lower end. If it is missing, the result is a dash.
        high: Upper end.
        show: Function that formats an end with a number of decimals, for example `points`.
        digits: Number of decimals.
    """
    if is_missing(low):
        return DASH
    return f"[{', '.join(with_sign_of_zero(show(end, digits), end) for end in (low, high))}]"


def share_interval(low: float, high: float, digits: int = 2) -> str:
    """Format an interval of a share in percent, cut at 0 and 100 %, which no share leaves: "[97.12, 100.00 (cut)]".

    Args:
        low: Lower end, as a fraction. If it is missing, the result is a dash.
        high: Upper end.
        digits: Number of decimals.
    """
    if is_missing(low):
        return DASH
    ends = (f"{percent(min(max(end, 0.0), 1.0), digits)}{' (cut)' if not 0 <= end <= 1 else ''}" for end in (low, high))
    return f"[{', '.join(ends)}]"


def p_value(p: float) -> str:
    """Format a p value with two or three decimals, or as "< 0.001"."""
    if is_missing(p):
        return DASH
    return "< 0.001" if p < 0.001 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"


def quantity(value: float) -> str:
    """Format a quantity with three digits and the prefix k, M, G, T or P, for example "13.0 M".

    A quantity below 1000 has no prefix and up to six digits.
    """
    if text := special(value):
        return text
    for power, prefix in ((15, "P"), (12, "T"), (9, "G"), (6, "M"), (3, "k")):
        if abs(value) >= 10**power * 0.9995:
            scaled = value / 10**power
            return f"{scaled:.{max(0, 2 - int(math.log10(abs(scaled))))}f} {prefix}"
    return f"{value:g}"


def duration(seconds: float) -> str:
    """Format a time given in seconds as seconds, minutes or hours, for example "6.7 min"."""
    if text := special(seconds):
        return text
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = seconds / 60
    if minutes < 90:
        return f"{minutes:.0f} min" if minutes >= 10 else f"{minutes:.1f} min"
    return f"{minutes / 60:.1f} h"


def counted(number: int, noun: str) -> str:
    """Format a number with its noun, for example "1 run" or "3 runs". The plural is the noun with an "s"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


@dataclass(frozen=True)
class Cell:
    """A cell of a table: its text, an aside in small print, and its key for sorting."""

    text: str
    aside: str = ""
    """Text in small print after the main text, for example an interval."""
    sort: float | str = ""
    """Key by which the report's page sorts the column."""

    @property
    def plain(self) -> str:
        """Text and aside in one line, without markup."""
        return f"{self.text} {self.aside}".strip()


@dataclass(frozen=True)
class Table:
    """A table that can be rendered as Markdown, as LaTeX and on the report's page."""

    caption: str
    columns: Sequence[str]
    """Headings of the columns."""
    rows: Sequence[Sequence[Cell]]
    """The rows, each with one cell for each column."""
    text_columns: frozenset[int] = field(default_factory=lambda: frozenset({0}))
    """Indices, from 0, of the columns that are aligned left. The others hold numbers and are aligned right."""
    holds_markdown: bool = False
    """Whether headings and cells are Markdown of ours, rather than text that is shown as it is, such as names."""

    def markdown(self) -> str:
        """Render the table as a Markdown table, without the caption."""
        show = as_cell if self.holds_markdown else as_markdown
        head = "| " + " | ".join(map(show, self.columns)) + " |"
        rule = "|" + "|".join("---" if i in self.text_columns else "--:" for i in range(len(self.columns))) + "|"
        body = ["| " + " | ".join(show(cell.plain) for cell in row) + " |" for row in self.rows]
        return "\n".join([head, rule, *body])

    def latex(self, label: str) -> str:
        """Render the table as a LaTeX table environment with the caption, for use with the package booktabs.

        LaTeX's special characters are escaped. Dashes, minus signs, ×, ∞ and narrow spaces are written as commands.

        Args:
            label: Name of the table. The label of the environment is `tab:` followed by this name.
        """
        frame = pd.DataFrame([[cell.plain for cell in row] for row in self.rows], columns=list(self.columns))
        styler = frame.style.hide(axis="index").format(escape="latex").format_index(escape="latex", axis=1)
        styler = styler.format(_first_in_latex_row, subset=frame.columns[:1], escape="latex")
        text = styler.to_latex(
            hrules=True,
            column_format="".join("l" if i in self.text_columns else "r" for i in range(len(self.columns))),
            caption=self.caption.translate(LATEX),
            label=f"tab:{label}",
            position="tbp",
            position_float="centering",
        )
        for symbol, command in LATEX_COMMANDS.items():
            text = text.replace(symbol, command)
        return text


def _first_in_latex_row(text: Any) -> str:
    """Protect the beginning of a row, which the end of the row before it would take for an option of its own."""
    return f"{{{text[0]}}}{text[1:]}" if text.startswith(("[", "*")) else text
