"""Compares a disturbed run with an undisturbed one, and the tracking store with the record of the run."""

from __future__ import annotations

import math
import sqlite3
from pathlib import Path
from typing import Any, NamedTuple

import torch
from pyarrow import parquet

from bench.records.states import read_events
from reproduce import schema
from reproduce.training.checkpoint import FILE_NAME as CHECKPOINT

MEASURED = ("throughput/", "memory/", "system/")
"""Prefixes of metrics that differ between two runs of the same training, since they are measured times and sizes."""
MEASURED_FINAL = (schema.FINAL_IMAGES_PER_S, schema.FINAL_DURATION_S, schema.FINAL_WARM_UP_S)


class Tracked(NamedTuple):
    """What the tracking store makes of the metrics that a record holds."""

    lost: int
    """Values that the store lacks."""
    twice: int
    """Values that the store holds more than once."""


def first_difference(run: Path, undisturbed: Path) -> str | None:
    """Compare curves, final metrics, weights and predictions of two runs to the last bit.

    Args:
        run: The record folder of a finished run.
        undisturbed: The record folder of the run to compare with.

    Returns:
        What differs first, or None if everything is equal.
    """
    for what, ours, theirs in (
        ("epochs", _curve(run), _curve(undisturbed)),
        ("final metrics", _final(run), _final(undisturbed)),
    ):
        if ours != theirs:
            return what
    weights, expected = (_weights(folder) for folder in (run, undisturbed))
    if weights.keys() != expected.keys():
        return "names of the weights"
    for name, values in weights.items():
        if not torch.equal(values, expected[name]):
            return f"weights of {name}"
    tables = [parquet.read_table(folder / schema.ARTIFACT_PREDICTIONS) for folder in (run, undisturbed)]
    return None if tables[0].equals(tables[1]) else "predictions"


def compare_with_store(run: Path, store: Path, key: str) -> Tracked:
    """Look up every finite metric of a record in the tables of the tracking store.

    The tables are read directly, since MLflow's client removes what it takes for duplicates.

    Args:
        run: The record folder of the run.
        store: The SQLite file of the store.
        key: The key of the run.
    """
    expected: dict[tuple[str, int], float] = {}
    epoch = 0
    for event in read_events(run):
        if event["kind"] == schema.EPOCH:
            epoch = event["epoch"]
        for name, value in event.get("metrics", {}).items():
            if math.isfinite(value) and not name.startswith(schema.RANK):  # the store does not receive those
                expected[name, epoch] = value
    if not store.exists():
        return Tracked(len(expected), 0)
    query = """
        SELECT metrics.key, metrics.step, metrics.value FROM metrics
        JOIN tags ON tags.run_uuid = metrics.run_uuid AND tags.key = ? AND tags.value = ?
    """
    with sqlite3.connect(f"file:{store}?mode=ro", uri=True) as connection:
        rows = connection.execute(query, (schema.TAG_KEY, key)).fetchall()
    found: dict[tuple[str, int], list[float]] = {}
    for name, step, value in rows:
        found.setdefault((name, step), []).append(value)
    return Tracked(
        lost=sum(value not in found.get(position, []) for position, value in expected.items()),
        twice=sum(len(found.get(position, [])) > 1 for position in expected),
    )


def _curve(run: Path) -> list[dict[str, float]]:
    return [_repeatable(event["metrics"]) for event in read_events(run) if event["kind"] == schema.EPOCH]


def _final(run: Path) -> dict[str, float]:
    *_, last = read_events(run)
    return _repeatable(last["metrics"])


def _repeatable(metrics: dict[str, float]) -> dict[str, float]:
    return {
        name: value for name, value in metrics.items() if not name.startswith(MEASURED) and name not in MEASURED_FINAL
    }


def _weights(run: Path) -> dict[str, torch.Tensor]:
    content: dict[str, Any] = torch.load(run / CHECKPOINT, map_location="cpu", weights_only=True)
    weights: dict[str, torch.Tensor] = (content.get("averaged") or content)["network"]  # those that were evaluated
    return weights
