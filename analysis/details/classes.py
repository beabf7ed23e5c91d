"""Computes accuracy by class from the predictions that runs keep."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from analysis.details.artifacts import fetched
from analysis.frames import Recorded
from analysis.tables import Cell, Table, is_missing, percent
from reproduce import schema

SUMMARISED_FROM = 50
"""Number of finished runs from which the predictions of one run of each arm are read in place of all."""
MOST_ARMS = 8
MOST_CLASSES = 20
NAMES = "class_names"


def read_predictions(recorded: Recorded, tracking_uri: str) -> dict[str, pd.DataFrame]:
    """Read what finished runs predicted in their final validation.

    Args:
        recorded: The experiment. Of at least `SUMMARISED_FROM` finished runs, the first of each arm is read.
        tracking_uri: URI of its MLflow store.

    Returns:
        By run_id, a frame with a row for each image, by its index in the data set, and the columns label and correct.
        Its `attrs` have the names of the classes as `NAMES`, see `read_names`. Runs that kept no predictions are left
        out.
    """
    finished = recorded.finished
    read = finished[finished["arm"].isin(recorded.arms[:MOST_ARMS])]
    if len(finished) >= SUMMARISED_FROM:
        read = read.drop_duplicates("arm")
    columns = ["index", "label", "correct"]
    with fetched(schema.ARTIFACT_PREDICTIONS, recorded.folders(read), tracking_uri) as files:
        predictions = {}
        for run_id, path in files.items():
            predictions[run_id] = pd.read_parquet(path, columns=columns).set_index("index")
            predictions[run_id].attrs[NAMES] = read_names(path)
        return predictions


def accuracy_by_class(recorded: Recorded, predictions: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Compute the top-1 of each class.

    Args:
        recorded: The experiment.
        predictions: The predictions of its runs, as `read_predictions` returns them.

    Returns:
        A frame with a row for each class, by its number, and a column for each arm that kept its predictions: the mean
        over seeds of the share of the class's images that are classified correctly. It is empty if none did. Its
        `attrs` have the names of the classes for people as `NAMES`, empty where the runs recorded none or not the same.
    """
    shares = {run_id: kept.groupby("label")["correct"].mean() for run_id, kept in predictions.items()}
    runs = recorded.finished
    by_class = _by_arm(shares, dict(zip(runs["run_id"], runs["arm"], strict=True)), recorded.arms[:MOST_ARMS])
    names = {kept.attrs[NAMES] for kept in predictions.values()} - {()}
    by_class.attrs[NAMES] = names.pop() if len(names) == 1 else ()
    return by_class


def read_names(path: Path) -> tuple[str, ...]:
    """Read the names of the classes from a run's predictions. It is empty for those of older runs, which have none."""
    from pyarrow.parquet import read_schema

    return tuple(json.loads((read_schema(path).metadata or {}).get(schema.CLASS_NAMES.encode(), b"[]")))


def _by_arm(shares: Mapping[str, pd.Series], arm_of: Mapping[str, str], arms: list[str]) -> pd.DataFrame:
    columns = {}
    for arm in arms:
        own = [share for run_id, share in shares.items() if arm_of[run_id] == arm]
        if own:
            columns[arm] = pd.concat(own, axis=1).mean(axis=1)
    return pd.DataFrame(columns).sort_index()


def classes_table(by_class: pd.DataFrame, recorded: Recorded) -> Table:
    """Build the table of accuracy by class: a row for each class, or for those in which arms differ most.

    Args:
        by_class: The frame of `accuracy_by_class`.
        recorded: The experiment.
    """
    spread = by_class.max(axis=1) - by_class.min(axis=1)
    shown = by_class.loc[sorted(spread.nlargest(MOST_CLASSES).index)]
    names = dict(enumerate(by_class.attrs.get(NAMES, ())))
    rows = [
        [
            Cell(names.get(label, f"class {label}"), sort=float(str(label))),
            *(Cell(percent(value, 1), sort="" if is_missing(value) else value) for value in row),
            Cell(percent(spread[label], 1), sort=spread[label]),
        ]
        for label, row in zip(shown.index, shown.to_numpy(dtype=float), strict=True)
    ]
    caption = "Top-1 by class, in %"
    if len(by_class) > len(shown):
        caption += f"; of {len(by_class)} classes, the {len(shown)} in which the arms differ most"
    if len(recorded.arms) > len(by_class.columns):
        caption += f"; {len(by_class.columns)} of {len(recorded.arms)} arms"
    one_run = len(recorded.finished) >= SUMMARISED_FROM
    caption += "; one run of each arm" if one_run else "; means over seeds"
    return Table(caption, ["Class", *map(str, by_class.columns), "Range"], rows)
