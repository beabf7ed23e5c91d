"""Reads one side of a comparison: the runs of an experiment, or those of one machine or commit among them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import pandas as pd

from analysis.frames import AnalysisError, Recorded, read
from reproduce import schema

CONDITIONS = ("machine", "commit", "plan", "records")
"""What a selection may ask for beside the name of an experiment."""
FORMS = "give NAME, or NAME@machine=HOST, NAME@commit=HASH, NAME@plan=HASH or NAME@records=FOLDER"
MACHINE = (schema.TAG_HOST, schema.TAG_COMPUTATION + "machine")
"""The tags of a run that name its machine: the host, and its kind."""


@dataclass(frozen=True, kw_only=True)
class Selection:
    """What is asked for as one side of a comparison."""

    text: str
    """As it was typed."""
    experiment: str
    conditions: Mapping[str, str] = field(default_factory=dict)
    """Values by their names in `CONDITIONS`."""


@dataclass(frozen=True, kw_only=True)
class Side:
    """One side of a comparison."""

    letter: str
    """"A" or "B"."""
    text: str
    """The selection as it was typed."""
    recorded: Recorded
    """The runs of the selection. At least one of them is finished."""


def read_selection(text: str) -> Selection:
    """Read a selection such as `study@machine=node1@commit=1f0c9a2e`.

    Raises:
        AnalysisError: A condition is unknown, is given twice or has no value.
    """
    name, *parts = re.split(rf"@(?=(?:{'|'.join(CONDITIONS)})=)", text)
    pairs = [part.split("=", 1) for part in parts]
    conditions = {condition: value for condition, value in pairs if value}
    if "@" in name or len(conditions) < len(pairs):
        raise AnalysisError(f"report: {text!r} does not select runs of an experiment; {FORMS}")
    return Selection(text=text, experiment=name, conditions=conditions)


def read_side(letter: str, selection: Selection, *, tracking_uri: str, own: str | None) -> Side:
    """Read the runs of a selection from a tracking store.

    Args:
        letter: "A" or "B".
        selection: The selection. Its folder of records was turned into `tracking_uri` and `own`.
        tracking_uri: URI of the MLflow store that holds the runs.
        own: Hash of the present plan in the reader's records, as for `analysis.frames.read`.

    Raises:
        AnalysisError: The store or the experiment cannot be read, no run meets the conditions, or none is finished.
        PlanError: The store does not hold the plan.
    """
    asked = selection.conditions
    recorded = read(selection.experiment, tracking_uri=tracking_uri, plan=asked.get("plan"), own=own)
    for condition in ("machine", "commit"):
        if condition in asked:
            recorded = _selected(recorded, condition, asked[condition])
    if recorded.finished.empty:
        raise AnalysisError(f"report: {selection.text!r} has no finished run, so that nothing can be compared")
    return Side(letter=letter, text=selection.text, recorded=recorded)


def _selected(recorded: Recorded, condition: str, value: str) -> Recorded:
    runs = recorded.runs
    names = [name for name in (MACHINE if condition == "machine" else (schema.TAG_COMMIT,)) if name in runs]
    meets = pd.Series(False, runs.index)
    for name in names:
        texts = runs[name].fillna("").astype(str)
        meets |= texts.str.startswith(value) if condition == "commit" else texts.eq(value)
    if not meets.any():
        known = sorted({str(text) for name in names for text in runs[name].dropna()})
        raise AnalysisError(
            f"report: no run of {recorded.experiment!r} has the {condition} {value!r}; "
            f"there are: {', '.join(known) or 'none'}"
        )
    kept = runs[meets].reset_index(drop=True)
    epochs = recorded.epochs[recorded.epochs["run_id"].isin(kept["run_id"])].reset_index(drop=True)
    return replace(recorded, runs=kept, epochs=epochs)
