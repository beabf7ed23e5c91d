"""What the suite found, as Markdown that can be pasted."""

from __future__ import annotations

from collections.abc import Sequence

from bench.suites.gpu.part import Check, Figure, Result, Table

DASH = "—"


def report(results: Sequence[Result], heading: str) -> str:
    """All parts in their order, then what was missed, and what is missing and why."""
    blocks = [f"## {heading}"]
    for result in results:
        blocks += [_table(result.part, table) for table in result.tables]
        if result.checks:
            columns = ["", "value", "bound", "check"]
            blocks.append(_rows(f"{result.part}: checks", columns, [_check(check) for check in result.checks]))
        blocks += [f"{result.part}: {note}" for note in result.notes]
    missed = [f"{one.part}: {check.what}" for one in results for check in one.checks if not check.passed]
    count = sum(len(result.checks) for result in results)
    if count:
        blocks.append(
            f"{count - len(missed)} of {count} checks hold{'; missed: ' if missed else ''}{'; '.join(missed)}."
        )
    missing = [[result.part, _MISSING[result.outcome], result.why] for result in results if result.outcome != "done"]
    if missing:
        blocks.append(_rows("not, or not all, there", ["part", "", "why"], missing))
    return "\n\n".join(blocks)


_MISSING = {"failed": "failed", "cut": "cut", "absent": "left out"}


def _table(part: str, table: Table) -> str:
    columns = list(dict.fromkeys(figure for row in table.rows.values() for figure in row))
    rows = [[name, *(_shown(row.get(column)) for column in columns)] for name, row in table.rows.items()]
    return _rows(f"{part}: {table.title}", ["", *columns], rows)


def _check(check: Check) -> list[str]:
    bounds = (("≥", check.at_least), ("≤", check.at_most))
    bound = ", ".join(f"{sign} {value:g}" for sign, value in bounds if value is not None)
    return [check.what, _shown(check.value), bound, "ok" if check.passed else "**missed**"]


def _shown(figure: Figure) -> str:
    return DASH if figure is None else figure if isinstance(figure, str) else f"{figure:.4g}"


def _rows(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Cells padded to one width, so that the text is a table before it is rendered, too."""
    cells = [[cell.replace("|", "\\|") for cell in row] for row in (columns, *rows)]
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
