"""Describes the arms of an experiment: in the words of its author, and by the settings that set them apart."""

from __future__ import annotations

import re

import pandas as pd

from analysis.factors import NOT_FACTORS
from analysis.frames import Recorded
from analysis.tables import DASH, Cell, Table
from reproduce.text.markdown import from_markdown

FIELDS = ("network.", "recipe.", "data.", "workers")
"""Beginnings of the names of settings."""
MOST = 4
"""Number of settings that are named for an arm; of more, the first ones are."""


def described_arms(note: str) -> dict[str, str]:
    """Read the descriptions of the arms from the table in an experiment's note in MLflow.

    Args:
        note: The note in Markdown.

    Returns:
        The descriptions by the names of the arms. An arm without a description is left out.
    """
    found = {}
    lines = [re.split(r"(?<!\\)\|", line.strip())[1:-1] for line in note.splitlines() if line.startswith("|")]
    columns: list[str] = []
    for cells in ([cell.strip() for cell in line] for line in lines):
        if not columns:
            columns = [cell.lower() for cell in cells]
        elif columns[0] == "arm" and len(cells) == len(columns) and not set("".join(cells)) <= set("-:"):
            described = dict(zip(columns, cells, strict=True))
            if text := described.get("what") or described.get("description"):
                found[from_markdown(described["arm"])] = from_markdown(text)
    return found


def settings_of_arms(runs: pd.DataFrame) -> dict[str, str]:
    """Name the settings of each arm in which the arms differ, for example "network.aux none".

    Args:
        runs: Runs in the format of `analysis.frames.Recorded.runs`.
    """
    fields = [c for c in map(str, runs.columns) if c.startswith(FIELDS) and c not in NOT_FACTORS]
    first = runs.groupby("arm", sort=False)[fields].first()
    varying = [field for field in fields if first[field].nunique() > 1]
    described = {}
    for arm, row in first.iterrows():
        own = [f"{field} {row[field]}" for field in varying if isinstance(row[field], str)]
        more = f" and {len(own) - MOST} more" if len(own) > MOST else ""
        described[str(arm)] = ", ".join(own[:MOST]) + more
    return described


def arms_table(recorded: Recorded, note: str) -> Table:
    """Build the table of the arms: what they are, and the settings in which they differ.

    Args:
        recorded: The experiment.
        note: Its note in MLflow. Without descriptions in it, the table has no such column.
    """
    described, settings = described_arms(note), settings_of_arms(recorded.runs)
    columns = ["Arm", *(["What it is"] if described else []), "What sets it apart"]
    rows = [
        [
            Cell(text or DASH, sort=text)
            for text in (arm, *([described.get(arm, "")] if described else []), settings.get(arm, ""))
        ]
        for arm in recorded.arms
    ]
    return Table("The arms, and the settings in which they differ", columns, rows, frozenset(range(len(columns))))
