"""Prints comparisons as tables to a terminal, a pipe or a file. Names and numbers are never truncated."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from rich.console import Console
from rich.measure import Measurement as RenderedWidth
from rich.table import Table
from rich.text import Text

from bench.suites.harness.comparison import Comparison


def print_comparison(comparison: Comparison, console: Console) -> None:
    """Print a comparison: its tables, the implementations that are absent, and the goals.

    Each metric has a table with the medians of all implementations and the ratios of the first one to the others. The
    values that were measured once share another table. A line for each goal says whether it was reached.
    """
    ours, *_ = comparison.repetitions
    count = len(comparison.repetitions[ours])
    _print_line(console, f"{comparison.title}; medians (range) of {count} interleaved repetitions")
    for metric in comparison.repetitions[ours][0]:
        print_table(console, (metric, "median", f"{ours} is × this"), _metric_rows(comparison, metric, ours))
    once = list(dict.fromkeys(metric for measured in comparison.once.values() for metric in measured))
    if once:
        rows = [
            [name, *(f"{measured[metric]:.4g}" if metric in measured else "" for metric in once)]
            for name, measured in comparison.once.items()
        ]
        print_table(console, ("measured once", *once), rows)
    for name, reason in comparison.absent.items():
        _print_line(console, f"{name}: did not take part: {reason}")
    for goal in comparison.goals:
        value = median(comparison.goal_values(goal))
        against = f" / {goal.baseline}" if goal.baseline else ""
        bounds = (("at least", goal.at_least), ("at most", goal.at_most))
        bound = " and ".join(f"{which} {value:g}" for which, value in bounds if value is not None)
        outcome = "reached" if goal.is_reached(value) else f"missed{'; ' if goal.note else ''}{goal.note}"
        _print_line(console, f"goal, {goal.metric}, {goal.ours}{against} {bound}: {value:.3g}, {outcome}")


def print_table(console: Console, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table that fits the width of the console if possible.

    Headings and the cells of the first column wrap between words. No other cell wraps, and nothing is truncated: a
    table that needs more width than the console has is printed wider.

    Args:
        console: Where the table is printed.
        columns: Headings, at least one.
        rows: Rows with one cell for each heading. All columns but the first are aligned to the right.
    """
    table = Table(box=None, pad_edge=False, header_style="bold")
    names = [columns[0], *(row[0] for row in rows)]
    table.add_column(Text(columns[0]), min_width=max(map(_longest_word, names)))
    for index, heading in enumerate(columns[1:], start=1):
        widest_cell = max((len(row[index]) for row in rows), default=0)
        min_width = max(widest_cell, _longest_word(heading))
        table.add_column(Text(heading), justify="right", min_width=min_width)
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    needed = RenderedWidth.get(console, console.options, table).minimum
    console.print(table, width=max(console.width, needed), crop=False)


def _longest_word(text: str) -> int:
    return max(map(len, text.split()), default=0)


def _metric_rows(comparison: Comparison, metric: str, ours: str) -> list[list[str]]:
    """Return a row for each implementation: name, median, and the median and range of the ratio of `ours` to it."""
    rows = []
    for name, measurements in comparison.repetitions.items():
        ratios = comparison.ratios(metric, ours, name)
        spread = "" if name == ours else f"{median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        rows.append([name, f"{median(measurement[metric] for measurement in measurements):.4g}", spread])
    return rows


def _print_line(console: Console, line: str) -> None:
    console.print(line, highlight=False, markup=False, soft_wrap=True)
