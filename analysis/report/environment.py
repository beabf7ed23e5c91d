"""Describes the machines, software and data with which the runs of an experiment were made."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from analysis.frames import Recorded
from analysis.tables import DASH, counted
from reproduce import schema
from reproduce.text.redaction import redacted

PROCESSOR = schema.TAG_ENVIRONMENT + "cpu"
NO_GPU = r"^(?:no NVML|NVML lists no device).*"
"""What runs record in place of the names of GPUs on a machine that has none."""


def environment_rows(recorded: Recorded, tracking_uri: str) -> list[tuple[str, str]]:
    """List the environment of the finished runs, or of all if none is finished.

    It is commit, machine, data, recipe, packages and tracking store.

    Args:
        recorded: The experiment.
        tracking_uri: URI of the MLflow store. A password and, for a local store, the folder are not shown.

    Returns:
        Pairs of a label and its value. If runs differ, the value lists each variant with its number of runs. A value
        that was not recorded is a dash for commit, machine, GPUs, data hash and packages. Other rows without a value
        are left out.
    """
    runs = recorded.described
    packages = sorted(c for c in runs.columns if c.startswith(schema.TAG_ENVIRONMENT) and c != PROCESSOR)
    rows = [
        ("Commit", commit_of(runs)),
        ("Machine", values_of(runs, schema.TAG_HOST)),
        ("Processor", values_of(runs, PROCESSOR)),
        ("GPUs", gpus_of(runs)),
        ("Workers per run", values_of(runs, "workers")),
        ("Data", values_of(runs, schema.TAG_DATA)),
        ("Data hash", values_of(runs, schema.TAG_DATA_HASH)),
        ("Seeds", ", ".join(str(seed) for seed in sorted(recorded.runs["seed"].unique()))),
        ("Epochs", values_of(runs, "recipe.epochs")),
        ("Batch size", values_of(runs, "recipe.batch_size")),
        ("Resolution", values_of(runs, "recipe.resolution")),
        (
            "Packages",
            ", ".join(f"{c.removeprefix(schema.TAG_ENVIRONMENT)} {values_of(runs, c)}" for c in packages) or DASH,
        ),
        ("Tracking", f"experiment {recorded.experiment_id} in {_without_folder(redacted(tracking_uri))}"),
    ]
    return [row for row in rows if row[1] != DASH or row[0] in ("Commit", "Machine", "GPUs", "Data hash", "Packages")]


def values_of(runs: pd.DataFrame, column: str) -> str:
    """Return the values of a column of runs as text, each with its number of runs if they differ; a dash for none."""
    if column not in runs or runs[column].isna().all():
        return DASH
    counts = runs[column].dropna().value_counts()
    if len(counts) == 1:
        return str(counts.index[0])
    return ", ".join(f"{value} ({counted(count, 'run')})" for value, count in counts.items())


def gpus_of(runs: pd.DataFrame) -> str:
    """Return the GPUs of runs as text, "none" for a machine without any; a dash if they were not recorded."""
    if schema.TAG_GPU not in runs:
        return DASH
    return values_of(runs.replace({schema.TAG_GPU: NO_GPU}, "none", regex=True), schema.TAG_GPU)


def commit_of(runs: pd.DataFrame) -> str:
    """Return the commits of runs as text, and which of them had local changes; a dash for none."""
    if schema.TAG_COMMIT not in runs or schema.TAG_DIRTY not in runs:
        return values_of(runs, schema.TAG_COMMIT)
    dirty = runs[schema.TAG_DIRTY].fillna("").str.lower().eq("true")
    shown = runs[schema.TAG_COMMIT].str[:12] + dirty.map({True: " with local changes", False: ""})
    return values_of(pd.DataFrame({"commit": shown}), "commit")


def _without_folder(uri: str) -> str:
    """Shorten the tracking URI of a local store to the name of its file."""
    return f"sqlite, {Path(uri).name}" if uri.startswith("sqlite:") else uri
