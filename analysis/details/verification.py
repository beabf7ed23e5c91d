"""Reads what `deeper verify` wrote of repeated runs, for the report on the runs that were repeated."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from analysis.comparisons.reproduction import REPRODUCED, Comparison, reproduction_table
from analysis.frames import AnalysisError, Recorded
from analysis.tables import Table
from reproduce import schema

NUMBERS = ("measured", "recorded", "low", "high")
"""The fields of a comparison that hold numbers. JSON holds NaN and infinity as text."""


@dataclass(frozen=True, kw_only=True)
class RepeatedRun:
    """A recorded run that was trained again elsewhere."""

    name: str
    key: str
    state: str
    """The state of the repeated run, such as "finished" or "failed"."""
    recorded_by: str
    """The machine and the code of the recorded run."""
    repeated_by: str
    """The machine and the code of the repeated run."""
    predictions: tuple[int, int] | None
    """Validation images, and those of which both runs predict the same class. None if a run kept no predictions."""
    comparisons: Sequence[Comparison]
    """The metrics of the two runs. Empty unless the repeated run is finished."""


def read_verifications(files: Iterable[Path], recorded: Recorded) -> list[RepeatedRun]:
    """Read the runs that `deeper verify --output FILE` compared with runs of a report.

    Args:
        files: The files.
        recorded: The runs of the report.

    Raises:
        AnalysisError: A file cannot be read or was written by something else, or a run in it is not in the report.
    """
    return [run for file in files for run in _read_file(file, recorded)]


def _read_file(file: Path, recorded: Recorded) -> list[RepeatedRun]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise AnalysisError(f"--verification: {file} cannot be read: {error.strerror}; name another file") from error
    except ValueError as error:
        raise AnalysisError(f"--verification: {file} cannot be read as JSON: {error}") from error
    try:
        experiment, runs = content["experiment"], [_repeated_run(run) for run in content["runs"]]
    except (KeyError, TypeError, ValueError) as error:
        raise AnalysisError(
            f"--verification: {file} does not hold repeated runs; `deeper verify RESULTS --output FILE` writes them"
        ) from error
    if experiment != recorded.experiment:
        raise AnalysisError(f"--verification: {file} is of {experiment!r}, and the report of {recorded.experiment!r}")
    keys = set(recorded.runs["key"])
    for run in runs:
        if run.key not in keys:
            raise AnalysisError(
                f"--verification: {file} repeats {run.name} with key {run.key}, which is not among the runs of this "
                "report; --plan chooses an earlier plan"
            )
    return runs


def _repeated_run(run: dict[str, Any]) -> RepeatedRun:
    counts = run["predictions"]
    return RepeatedRun(
        name=run["run"],
        key=run["key"],
        state=run["state"],
        recorded_by=run["recorded_by"],
        repeated_by=run["repeated_by"],
        predictions=None if counts is None else (counts["images"], counts["same"]),
        comparisons=[Comparison(**{**one, **{name: float(one[name]) for name in NUMBERS}}) for one in run["metrics"]],
    )


def verification_sentences(repeated: Iterable[RepeatedRun]) -> list[str]:
    """Say in a sentence or two, for each repeated run, who repeated it and what came of it."""
    sentences = []
    for run in repeated:
        who = f"{run.name}: recorded by {run.recorded_by}; repeated by {run.repeated_by}."
        if run.state != schema.FINISHED:
            sentences.append(f"{who} The repeated run is {run.state}, so that nothing is compared.")
            continue
        same = sum(one.verdict in REPRODUCED for one in run.comparisons)
        what = f"{same} of {len(run.comparisons)} numbers are equal or within the interval."
        if run.predictions is not None:
            images, equal = run.predictions
            what += f" Both runs predict the same class for {equal} of {images} validation images."
        sentences.append(f"{who} {what}")
    return sentences


def verification_table(repeated: Iterable[RepeatedRun]) -> Table:
    """Build the table of the repeated runs, a row for each run and metric. It has no rows if there are none."""
    return reproduction_table({run.name: run.comparisons for run in repeated})
