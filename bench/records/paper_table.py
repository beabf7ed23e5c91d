"""Evaluations in the layout of the paper's table of ensembles (Szegedy et al. 2014, Table 3)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from reproduce.evaluation.protocols import PAPER, PaperRow


@dataclass(frozen=True)
class TableRow:
    """A row of the table; errors in per cent, differences in percentage points."""

    models: int
    crops: int
    cost: int
    """Number of forward passes per image."""
    top1_error: float
    top5_error: float
    compared_to_base: float | None
    """Top-5 error less that of the first model with one crop; None if the latter is unknown."""
    paper: PaperRow | None
    """The paper's row for this number of models and crops; None if there is none or the data are not comparable."""


def table_rows(evaluations: Iterable[Mapping[str, Any]], *, imagenet: bool) -> list[TableRow]:
    """Lay out evaluations by their number of models, then of crops.

    Args:
        evaluations: the contents of `evaluation.json` files; of two with the same number of models and crops the later
            one is used.
        imagenet: whether the images are ILSVRC's validation set, so that the paper's rows are comparable.
    """
    found = {(len(evaluation["models"]), evaluation["crops"]): evaluation for evaluation in evaluations}
    paper = {(row.models, row.crops): row for row in PAPER} if imagenet else {}
    base = 100 * (1 - found[1, 1]["top5"]) if (1, 1) in found else None
    rows = []
    for (models, crops), evaluation in sorted(found.items()):
        top1, top5 = (100 * (1 - evaluation[name]) for name in ("top1", "top5"))
        change = None if base is None else top5 - base
        rows.append(TableRow(models, crops, models * crops, top1, top5, change, paper.get((models, crops))))
    return rows
