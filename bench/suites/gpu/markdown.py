"""Renders the results of probes as Markdown that can be pasted into a document."""

from __future__ import annotations

from collections.abc import Sequence

from bench.suites.gpu.probe import BoundCheck, ProbeResult, ProbeTable, Value
from reproduce.text.markdown import as_markdown

DASH = "—"
FAILED = "**failed**"


def render(results: Sequence[ProbeResult], heading: str) -> str:
    """Render the results of probes as Markdown.

    Args:
        results: Results in the order in which they are shown.
        heading: Text of the heading above them.

    Returns:
        Tables, checks and notes of each probe; then a sentence with the number of checks that pass and the names of
        those that failed; then a table of the probes that are not done, with the reasons.
    """
    blocks = [f"## {heading}"]
    for result in results:
        blocks += [_table(result.probe, table) for table in result.tables]
        if result.checks:
            columns = ["", "value", "bound", "check"]
            blocks.append(_rows(f"{result.probe}: checks", columns, [_check(check) for check in result.checks]))
        blocks += [f"{result.probe}: {note}" for note in result.notes]
    failed = [f"{result.probe}: {check.what}" for result in results for check in result.checks if not check.passed]
    count = sum(len(result.checks) for result in results)
    if count:
        blocks.append(
            f"{count - len(failed)} of {count} checks pass{'; failed: ' if failed else ''}{'; '.join(failed)}."
        )
    missing = [[result.probe, _MISSING[result.outcome], result.why] for result in results if result.outcome != "done"]
    if missing:
        blocks.append(_rows("missing or incomplete", ["probe", "", "why"], missing))
    return "\n\n".join(blocks)


_MISSING = {"failed": "failed", "cut": "cut", "absent": "left out"}


def _table(probe: str, table: ProbeTable) -> str:
    columns = list(dict.fromkeys(column for row in table.rows.values() for column in row))
    rows = [[name, *(_shown(row.get(column)) for column in columns)] for name, row in table.rows.items()]
    return _rows(f"{probe}: {table.title}", ["", *columns], rows)


def _check(check: BoundCheck) -> list[str]:
    bounds = (("≥", check.at_least), ("≤", check.at_most))
    bound = ", ".join(f"{sign} {value:g}" for sign, value in bounds if value is not None)
    return [check.what, _shown(check.value), bound, "ok" if check.passed else FAILED]


def _shown(value: Value) -> str:
    if value is None:
        return DASH
    return value if isinstance(value, str) else f"{value:.4g}"


def _rows(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown, with cells padded so that its source is readable as well."""
    cells = [[cell if cell == FAILED else as_markdown(cell) for cell in row] for row in (columns, *rows)]
    widths = [max(3, *(len(row[index]) for row in cells)) for index in range(len(columns))]
    numeric = [index for index in range(1, len(columns)) if all(_is_number(row[index]) for row in cells[1:])]
    lines = ["| " + " | ".join(_padded(row, widths, numeric)) + " |" for row in cells]
    rule = [("-" * (width - 1) + ":") if index in numeric else "-" * width for index, width in enumerate(widths)]
    return "\n".join([f"**{title}**", "", lines[0], "| " + " | ".join(rule) + " |", *lines[1:]])


def _padded(row: Sequence[str], widths: Sequence[int], numeric: Sequence[int]) -> list[str]:
    return [
        cell.rjust(width) if index in numeric else cell.ljust(width)
        for index, (cell, width) in enumerate(zip(row, widths, strict=True))
    ]


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return cell in (DASH, "")
    return True
