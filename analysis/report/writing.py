"""From MLflow to a report: reads an experiment, analyses it and writes the report's files."""

from __future__ import annotations

from pathlib import Path

from analysis.frames import AnalysisError, read
from analysis.report.completeness import unfinished_runs
from analysis.report.rendering import write_files
from analysis.report.sections import build_sections
from analysis.tables import DASH


def write_report(experiment: str, *, tracking_uri: str, out: Path) -> Path:
    """Write the report of an experiment and return the path of its page.

    Args:
        experiment: The name under which the experiment is recorded.
        tracking_uri: Of the MLflow store that holds its runs.
        out: The folder of the report; it is made where it does not exist.

    Raises:
        AnalysisError: The store is missing or does not answer, the experiment is unknown, or no run of it is finished.
    """
    recorded = read(experiment, tracking_uri=tracking_uri)
    if recorded.finished.empty:
        outcomes = recorded.runs["outcome"].value_counts()
        reasons = [f"{run.name}: {run.error}" for run in unfinished_runs(recorded) if run.error != DASH]
        raise AnalysisError(
            f"experiment: {experiment!r} has no finished run; "
            + ", ".join(f"{number} {outcome}" for outcome, number in outcomes.items())
            + "".join(f"\n  {reason}" for reason in reasons)
        )
    return write_files(build_sections(recorded, tracking_uri), out)
