"""Numbers as text, and tables as HTML cells, Markdown, LaTeX: each table is described once and rendered thrice."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import pandas as pd

DASH = "—"  # what is missing; never 0
MINUS = "−"


def missing(value: object) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def number(value: float, digits: int = 0) -> str:
    return DASH if missing(value) else f"{value:z,.{digits}f}".replace("-", MINUS).replace(",", "\u202f")


def percent(fraction: float, digits: int = 2) -> str:
    return number(100 * fraction, digits)


def points(fraction: float, digits: int = 2) -> str:
    """A difference of fractions in percentage points, with its sign."""
    return DASH if missing(fraction) else f"{100 * fraction:+z.{digits}f}".replace("-", MINUS)


def interval(low: float, high: float, digits: int = 2, *, signed: bool = False) -> str:
    form = points if signed else percent
    return DASH if missing(low) else f"[{form(low, digits)}, {form(high, digits)}]"


def p_value(p: float) -> str:
    if missing(p):
        return DASH
    return "< 0.001" if p < 0.001 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"


def quantity(value: float) -> str:
    """Three digits with a prefix: 13.0 M, 1.58 G."""
    if missing(value):
        return DASH
    for power, prefix in ((9, "G"), (6, "M"), (3, "k")):
        if abs(value) >= 10**power * 0.9995:
            scaled = value / 10**power
            return f"{scaled:.{max(0, 2 - int(math.log10(abs(scaled))))}f} {prefix}"
    return f"{value:g}"


def duration(seconds: float) -> str:
    if missing(seconds):
        return DASH
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = seconds / 60
    if minutes < 90:
        return f"{minutes:.0f} min" if minutes >= 10 else f"{minutes:.1f} min"
    return f"{minutes / 60:.1f} h"


@dataclass(frozen=True)
class Cell:
    """A text, an aside in small print (an interval), and the number it sorts by."""

    text: str
    aside: str = ""
    sort: float | str = ""

    @property
    def plain(self) -> str:
        return f"{self.text} {self.aside}".strip()


@dataclass(frozen=True)
class Table:
    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    text_columns: frozenset[int] = field(default_factory=lambda: frozenset({0}))
    """Columns that align left; numbers align right."""

    def markdown(self) -> str:
        head = "| " + " | ".join(self.columns) + " |"
        rule = "|" + "|".join("---" if i in self.text_columns else "--:" for i in range(len(self.columns))) + "|"
        body = ["| " + " | ".join(cell.plain.replace("|", "\\|") for cell in row) + " |" for row in self.rows]
        return "\n".join([head, rule, *body])

    def latex(self, label: str) -> str:
        """A booktabs table."""
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
