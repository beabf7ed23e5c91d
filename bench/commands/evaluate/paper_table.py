"""Arranges evaluations as the paper's table of ensembles does (Szegedy et al. 2014, Table 3)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from reproduce.evaluation.protocols import PAPER, PaperRow


@dataclass(frozen=True)
class TableRow:
    """One row of the table: the errors of an evaluation with a number of models and of crops."""

    models: int
    """Number of models whose probabilities are averaged."""
    crops: int
    """Number of crops per image for each model, including mirrored ones."""
    cost: int
    """Number of forward passes per image: models times crops."""
    top1_error: float
    """Top-1 error in percent."""
    top5_error: float
    """Top-5 error in percent."""
    compared_to_base: float | None
    """Top-5 error minus that of one model with one crop, in percentage points; None without such an evaluation."""
    paper: PaperRow | None
    """The paper's row for this number of models and crops; None if it has none or the data are not comparable."""


def table_rows(evaluations: Iterable[Mapping[str, Any]], *, imagenet: bool) -> list[TableRow]:
    """Arrange evaluations in rows that are sorted by the number of models and then by the number of crops.

    Args:
        evaluations: Contents of `evaluation.json` files, of which models, crops, top1 and top5 are used. If several
            have the same numbers of models and crops, the last one in the order of iteration is used.
        imagenet: Whether the images are ILSVRC's validation set, so that the paper's rows are comparable.

    Returns:
        One row for each pair of a number of models and a number of crops, with errors in percent.
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
