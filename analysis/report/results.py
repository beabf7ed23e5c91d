"""Builds the tables of a report: results by arm, and effects on top-1."""

from __future__ import annotations

import pandas as pd

from analysis.effects import INTERACTION, MAX_SEEDS, PAIRWISE
from analysis.tables import (
    DASH,
    Cell,
    Table,
    duration,
    interval,
    is_missing,
    number,
    p_value,
    percent,
    points,
    quantity,
    share_interval,
    signed,
)


def results_table(summary: pd.DataFrame) -> Table:
    """Build the table of results: accuracy, cost and speed of each arm, with one row for each arm.

    The column on utilisation shows the first of GPU busy, shared GPU busy and CPU that was recorded.

    Args:
        summary: One row for each arm, as `analysis.summaries.summarise_arms` returns it.
    """
    labels = {
        "gpu_busy_percent": "GPU busy, %",
        "shared_gpu_busy_percent": "Shared GPU busy, %",
        "cpu_percent": "CPU, %",
    }
    device = next((column for column in labels if summary[column].notna().any()), "cpu_percent")
    rows = []
    for _, row in summary.iterrows():
        cells = [Cell(row["arm"], sort=row["arm"]), _cell(str(row["n"]), row["n"])]
        for name in ("top1", "top5"):
            aside = share_interval(row[f"{name}_low"], row[f"{name}_high"])
            cells.append(_cell(percent(row[name]), row[name], "" if aside == DASH else aside))
        cells += [
            _cell(quantity(row["parameters"]), row["parameters"]),
            _cell(quantity(row["parameters_inference"]), row["parameters_inference"]),
            _cell(quantity(row["macs"]), row["macs"]),
            _cell(number(row["images_per_s"], 0 if row["images_per_s"] >= 100 else 1), row["images_per_s"]),
            _cell(number(row[device]), row[device]),
            _cell(duration(row["duration_s"]), row["duration_s"]),
        ]
        rows.append(cells)
    columns = [
        "Arm", "n", "Top-1, %", "Top-5, %", "Parameters, training", "Parameters, inference", "Multiply-adds",
        "Images/s", labels[device], "Time per run",
    ]  # fmt: skip
    brackets = ", 95 % intervals in brackets" if summary["top1_low"].notna().any() else ""
    if any("(cut)" in cell.aside for cells in rows for cell in cells):
        brackets += ", cut at 0 and 100 %"
    return Table(f"Results by arm: means over seeds{brackets}", columns, rows)


def effects_table(effects: pd.DataFrame) -> Table:
    """Build the table of effects on top-1 in percentage points, with one row for each effect.

    Args:
        effects: Effects on top-1, in the format of `analysis.effects.effects`, as fractions.
    """
    rows = []
    for _, row in effects.iterrows():
        rows.append(
            [
                Cell(effect_name(row), sort=effect_name(row)),
                _cell(points(row["difference"]), row["difference"]),
                _cell(interval(row["low"], row["high"], points), row["low"]),
                _cell(p_value(row["p"]), row["p"]),
                _cell(p_value(row["p_holm"]), row["p_holm"]),
                _cell(percent(row["detectable"]), row["detectable"]),
                Cell(row["verdict"], sort=row["verdict"]),
            ]
        )
    columns = ["Effect", "Points", "95 % interval", "p", "p, Holm", "Smallest detectable effect", "Verdict"]
    caption = "Effects on top-1, in percentage points"
    return Table(caption, columns, rows, text_columns=frozenset({0, 6}))


def sizes_table(effects: pd.DataFrame) -> Table:
    """Build the table of how large the effects on top-1 are in other measures, with one row for each effect.

    The columns on equivalence are left out if the experiment names no margin.

    Args:
        effects: Effects on top-1, in the format of `analysis.effects.effects`, as fractions.
    """
    margin = effects["margin"].max()
    rows = []
    for _, row in effects.iterrows():
        cells = [
            Cell(effect_name(row), sort=effect_name(row)),
            _cell(str(row["n"]), row["n"]),
            _cell(signed(row["g"]), row["g"]),
            _cell(number(row["p_superior"], 2), row["p_superior"]),
            _cell(signed(row["correlation"]), row["correlation"]),
        ]
        if not is_missing(margin):
            cells += [
                _cell(p_value(row["p_equivalence"]), row["p_equivalence"]),
                _cell(f"over {MAX_SEEDS}" if row["seeds"] >= MAX_SEEDS else number(row["seeds"]), row["seeds"]),
            ]
        rows.append(cells)
    columns = ["Effect", "Runs", "Hedges' g", "P(A > B)", "Correlation by seed"]
    if not is_missing(margin):
        columns += [f"p, equivalent within {percent(margin, 1)} points", f"Seeds to find {percent(margin, 1)} points"]
    return Table("Sizes of the effects on top-1", columns, rows)


def effect_name(row: pd.Series) -> str:
    """Return the name of an effect, given as a row of `analysis.effects.effects`."""
    if row["kind"] == PAIRWISE:
        return str(row["contrast"])
    return f"{'Interaction ' if row['kind'] == INTERACTION else ''}{row['effect']}: {row['contrast']}"


def _cell(text: str, value: float, aside: str = "") -> Cell:
    return Cell(text, aside, "" if is_missing(value) else value)
