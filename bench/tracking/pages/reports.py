"""Attaches the report of an experiment to MLflow: a run of its own carries the page, which MLflow shows.

That run has no key, so that nothing that reads runs takes it for one of the experiment.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
import time
from collections.abc import Mapping
from pathlib import Path

from bench.tracking.embedded.sender import open_sender
from bench.tracking.pages.notes import NOTE, with_links
from bench.tracking.sending import RejectedError, Sender, mlflow_errors
from bench.tracking.shaping import STATUS, NewRun
from reproduce import schema
from reproduce.errors import UserError

FOLDER = "report"
"""The folder of the page among the artifacts of its run."""


class NotAttachedError(UserError):
    """Raised when the store does not take a report. The message says why; the report itself is written."""


def attach_report(experiment: str, page: Path, *, records: Path, uri: str, plan: str | None) -> str | None:
    """Attach the page of a report to its experiment in MLflow, in place of an earlier one of the same plan.

    Args:
        experiment: The name of the experiment, which the store holds.
        page: The path of the report's index.html.
        records: The folder of the records, as an absolute path. Their embedded store is written to without MLflow.
        uri: The URI of the tracking store.
        plan: The hash of the plan that the report shows, or the beginning of it. None means the newest present plan.

    Returns:
        MLflow's id of the run that carries the page. None if the store holds no plans, since older versions filled it.

    Raises:
        NotAttachedError: The store is away, or takes no run from this user.
    """
    try:
        with contextlib.closing(open_sender(records, uri)) as sender:
            return _attach(sender, experiment, page, plan)
    except Exception as error:
        if isinstance(error, (sqlite3.Error, RejectedError, *mlflow_errors())):
            raise NotAttachedError(f"the report is not attached to MLflow: {str(error).splitlines()[0]}") from error
        raise


def _attach(sender: Sender, experiment: str, page: Path, plan: str | None) -> str | None:
    identity = sender.find_experiment(experiment)
    assert identity is not None, "the report was made from it"
    tags = sender.experiment_tags(identity)
    digest = _plan(tags, plan)
    if digest is None:
        return None
    name, now_ms = f"{schema.TAG_REPORT}{digest}", round(time.time() * 1000)
    own = {
        name: "yes",
        f"{schema.TAG_PLAN}{digest}": "yes",
        schema.TAG_OUTCOME: "report",
        "mlflow.runColor": "#808080",
        "mlflow.source.name": f"deeper report {experiment}",
        "mlflow.source.type": "LOCAL",
        NOTE: f"The report of the runs of plan `{digest}`: see its artifact `{FOLDER}/{page.name}`.",
    }
    run_id = sender.find_or_create_run(identity, NewRun("report", now_ms, own, identity=(name,)))
    sender.add_evaluation(run_id, (), page, FOLDER)
    sender.move_end(run_id, STATUS[schema.FINISHED], now_ms)
    note = with_links(tags.get(NOTE, ""), identity, digest, run_id)
    sender.describe_experiment(identity, {name: run_id, NOTE: note}, {})
    return run_id


def _plan(tags: Mapping[str, str], wanted: str | None) -> str | None:
    names = [name.removeprefix(schema.TAG_PLAN) for name in tags if name.startswith(schema.TAG_PLAN)]
    presents = [json.loads(value) for name, value in tags.items() if name.startswith(schema.TAG_PLANNER)]
    if wanted is None and presents:
        wanted = str(max(presents, key=lambda present: float(present["since"]))["plan"])
    return next((name for name in names if "." not in name and wanted and name.startswith(wanted)), None)
