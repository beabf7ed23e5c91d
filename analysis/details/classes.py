"""Computes accuracy by class, and its differences from the baseline, from the predictions that runs keep."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from analysis.details.artifacts import fetched, read_artifact
from analysis.frames import Recorded
from analysis.statistics import ALPHA, NAN, holm, welch
from analysis.tables import Cell, Table, is_missing, percent, points
from reproduce import schema

SUMMARISED_FROM = 50
"""Number of finished runs from which the predictions of one run of each arm are read in place of all."""
MOST_ARMS = 8
MOST_CLASSES = 20
NAMES = "class_names"
CLEAR = "*"
"""Mark of a clear difference from the baseline."""


def read_predictions(recorded: Recorded, tracking_uri: str) -> dict[str, pd.DataFrame]:
    """Read what finished runs predicted in their final validation.

    Args:
        recorded: The experiment. Of at least `SUMMARISED_FROM` finished runs, the first of each arm is read.
        tracking_uri: URI of its MLflow store.

    Returns:
        By run_id, a frame with a row for each image, by its index in the data set, and the columns label and correct.
        Its `attrs` have the names of the classes as `NAMES`, see `read_names`. Runs that kept no predictions, or
        whose file is damaged, are left out.
    """
    finished = recorded.finished
    read = finished[finished["arm"].isin(recorded.arms[:MOST_ARMS])]
    if len(finished) >= SUMMARISED_FROM:
        read = read.drop_duplicates("arm")
    columns = ["index", "label", "correct"]
    with fetched(schema.ARTIFACT_PREDICTIONS, recorded.folders(read), tracking_uri) as files:
        predictions = {}
        for run_id, path in files.items():
            if (found := read_artifact(path, columns)) is None:
                continue
            predictions[run_id] = found.set_index("index")
            predictions[run_id].attrs[NAMES] = read_names(path)
        return predictions


def shares_by_class(recorded: Recorded, predictions: Mapping[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """Compute the share of each class's images that each run classified correctly.

    Args:
        recorded: The experiment.
        predictions: The predictions of its runs, as `read_predictions` returns them.

    Returns:
        For each arm that kept its predictions, a frame with a row for each class, by its number, and a column for each
        run.
    """
    runs = recorded.finished
    arm_of = dict(zip(runs["run_id"], runs["arm"], strict=True))
    shares: dict[str, dict[str, pd.Series]] = {arm: {} for arm in recorded.arms[:MOST_ARMS]}
    for run_id, kept in predictions.items():
        shares[arm_of[run_id]][run_id] = kept.groupby("label")["correct"].mean()
    return {arm: pd.DataFrame(own).sort_index() for arm, own in shares.items() if own}


def clear_differences(shares: Mapping[str, pd.DataFrame], base: str) -> pd.DataFrame:
    """Decide in which classes the arms differ from the baseline.

    All classes of all arms are one family: the p values of Welch's t tests over the runs are corrected with Holm's
    method.

    Args:
        shares: The shares of the arms, as `shares_by_class` returns them.
        base: Name of the baseline.

    Returns:
        A frame with a row for each class and a column for each other arm whose classes could be tested: the corrected
        p values, NaN where a class has no spread. It is empty if the baseline kept no predictions, or if no arm has two
        runs.
    """
    p = {
        arm: [welch(own.loc[label], shares[base].loc[label]).p for label in own.index]
        for arm, own in shares.items()
        if base in shares and arm != base and own.index.equals(shares[base].index)
    }
    raw = pd.DataFrame(p, index=shares[base].index if p else None, dtype=float).dropna(axis=1, how="all")
    corrected = np.reshape(holm(raw.to_numpy().ravel().tolist()), raw.shape)
    return pd.DataFrame(corrected, index=raw.index, columns=raw.columns)


def read_names(path: Path) -> tuple[str, ...]:
    """Read the names of the classes from a run's predictions. It is empty for those of older runs, which have none."""
    from pyarrow.parquet import read_schema

    return tuple(json.loads((read_schema(path).metadata or {}).get(schema.CLASS_NAMES.encode(), b"[]")))


def names_of_classes(predictions: Mapping[str, pd.DataFrame]) -> dict[int, str]:
    """Return the names of the classes for people, by number; empty where the runs recorded none or not the same."""
    names = {kept.attrs[NAMES] for kept in predictions.values()} - {()}
    return dict(enumerate(names.pop())) if len(names) == 1 else {}


def classes_table(recorded: Recorded, predictions: Mapping[str, pd.DataFrame], base: str) -> Table:
    """Build the table of accuracy by class: a row for each class, or for those in which arms differ most.

    Args:
        recorded: The experiment.
        predictions: The predictions of its runs, as `read_predictions` returns them.
        base: Name of the arm from which the differences of the others are shown.
    """
    shares, names = shares_by_class(recorded, predictions), names_of_classes(predictions)
    by_class = pd.DataFrame({arm: own.mean(axis=1) for arm, own in shares.items()}).sort_index()
    p = clear_differences(shares, base)
    compares = base in by_class and len(by_class.columns) > 1
    differences = by_class.sub(by_class[base], axis=0) if compares else by_class * NAN
    differences[base] = NAN
    spread = by_class.max(axis=1) - by_class.min(axis=1)
    shown = sorted(spread.nlargest(MOST_CLASSES).index)

    def row(frame: pd.DataFrame, label: int) -> list[float]:
        return [float(value) for value in frame.reindex(index=[label], columns=by_class.columns).to_numpy()[0]]

    rows = [
        [
            Cell(names.get(label, f"class {label}"), sort=float(label)),
            *map(_cell, row(by_class, label), row(differences, label), row(p, label)),
            Cell(percent(spread[label], 1), sort=spread[label]),
        ]
        for label in shown
    ]
    caption = "Top-1 by class, in %"
    if compares:
        caption += f", and the difference from {base} in points"
    if len(by_class) > len(shown):
        caption += f"; of {len(by_class)} classes, the {len(shown)} in which the arms differ most"
    if len(recorded.arms) > len(by_class.columns):
        caption += f"; {len(by_class.columns)} of {len(recorded.arms)} arms"
    one_run = len(recorded.finished) >= SUMMARISED_FROM
    caption += "; one run of each arm" if one_run else "; means over seeds"
    if tested := int(p.notna().sum().sum()):
        caption += f"; {CLEAR} marks a clear difference: Welch's t test, corrected over {tested} differences (Holm)"
    return Table(caption, ["Class", *map(str, by_class.columns), "Range"], rows)


def _cell(value: float, difference: float, p: float) -> Cell:
    aside = "" if is_missing(difference) else f"({points(difference, 1)}{CLEAR if p < ALPHA else ''})"
    return Cell(percent(value, 1), aside, sort="" if is_missing(value) else value)
