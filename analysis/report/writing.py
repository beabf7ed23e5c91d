"""Makes the report of an experiment: reads it from MLflow, analyses it and writes the files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from analysis.details.verification import read_verifications
from analysis.frames import AnalysisError, read
from analysis.report.rendering.files import write_files
from analysis.report.sections import build_sections


def write_report(
    experiment: str,
    *,
    tracking_uri: str,
    out: Path,
    plan: str | None = None,
    own: str | None = None,
    verifications: Sequence[Path] = (),
    commit: str = "",
) -> Path:
    """Write the report of an experiment and return the path of its page, index.html.

    Args:
        experiment: Name of the experiment in MLflow.
        tracking_uri: URI of the MLflow store that holds its runs.
        plan: Hash of the plan, as for `analysis.frames.read`.
        own: Hash of the present plan in the reader's records, as for `analysis.frames.read`.
        verifications: Files of `deeper verify --output` about runs of the experiment.
        commit: The commit of the code that runs; empty if it is not known.
        out: Folder of the report. It is created if necessary, and files of an earlier report in it are overwritten.

    Raises:
        AnalysisError: The store is missing or does not answer, the experiment is unknown, no run of it has begun, or a
            file of a verification is none or of other runs.
        PlanError: The store does not hold the plan.
    """
    recorded = read(experiment, tracking_uri=tracking_uri, plan=plan, own=own)
    if recorded.runs["run_id"].isna().all():
        raise AnalysisError(
            f"experiment: {experiment!r} has no finished run; {len(recorded.runs)} waiting"
            + "".join(f"\n  {notice}" for notice in recorded.notices)
        )
    repeated = read_verifications(verifications, recorded)
    return write_files(build_sections(recorded, tracking_uri, repeated, commit=commit), out)
