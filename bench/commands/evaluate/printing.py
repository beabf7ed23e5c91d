"""Prints an evaluation as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.commands.evaluate.paper_table import TableRow
from bench.console.output import plain_console, show
from bench.console.tables import Column, FittedTable
from reproduce.evaluation.protocols import is_imagenet


def show_evaluation(content: Mapping[str, Any], rows: Sequence[TableRow], folder: Path) -> None:
    """Print an evaluation to standard output, with a table in the layout of the paper's Table 3.

    The table shows the given rows: this evaluation and others of the same models, or of the first 1, 2, ... of them.
    The paper's own numbers are included only for ImageNet's validation set.

    Args:
        content: The content of the evaluation's `evaluation.json`.
        rows: The rows of the table, as `bench.commands.evaluate.paper_table.table_rows` returns them.
        folder: The evaluation's folder, whose path is printed.
    """
    data = content["data"]
    comparable = is_imagenet(data)
    console = plain_console()
    names = ", ".join(model["name"] for model in content["models"])
    show(
        console,
        f"{names} on {data['source']} ({data['images']} images, {data['classes']} classes)",
        _table(rows, comparable=comparable),
        f"{content['protocol']}: loss of the averaged probabilities {content['loss']:.4f}",
    )
    for scale in content["scales"]:
        if count := scale["enlarged"]["images"]:
            side = scale["enlarged"]["largest_side"]
            show(
                console,
                f"{count} of {data['images']} images are stored smaller than the required {side} px and were enlarged",
            )
    if comparable:
        show(console, "paper: Szegedy et al. 2014, Table 3, 50 000 validation images of ILSVRC 2014")
    else:
        show(
            console,
            "The paper's Table 3 is not shown, because it is of ImageNet's 50 000 validation images in 1000 classes, "
            "sorted by their WordNet ids.",
        )
    show(console, f"kept: {folder}")


def _table(rows: Sequence[TableRow], *, comparable: bool) -> FittedTable:
    """Return a table in the layout of the paper's Table 3, with the paper's own numbers if they are `comparable`."""
    columns = [
        Column("models", "right"),
        Column("crops", "right"),
        Column("cost", "right", priority=4),
        Column("top-5 error, %", "right"),
        Column("against base", "right", priority=2),
        Column("top-1 error, %", "right", priority=3),
        *([Column("paper's top-5", "right", priority=1)] if comparable else []),
    ]
    cells = []
    for row in rows:
        is_base = (row.models, row.crops) == (1, 1)
        change = "base" if is_base else "-" if row.compared_to_base is None else f"{row.compared_to_base:+.2f}"
        paper = [f"{row.paper.top5_error:.2f}" if row.paper else "-"] if comparable else []
        cells.append(
            [
                *(str(row.models), str(row.crops), str(row.cost)),
                *(f"{row.top5_error:.2f}", change, f"{row.top1_error:.2f}", *paper),
            ]
        )
    return FittedTable(columns, cells)
