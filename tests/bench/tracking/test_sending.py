"""What a tracking store rejects, and what may pass."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from bench.tracking.sending import RejectedError, Sender, is_rejection
from bench.tracking.shaping import Metric, RunUpdate


@pytest.mark.parametrize(
    ("status", "stays"),
    [(400, True), (404, True), (401, False), (403, False), (408, False), (429, False), (500, False), (503, False)],
)
def test_client_errors_stay_unless_they_are_known_to_pass(status: int, stays: bool) -> None:
    assert is_rejection(status) is stays


def test_a_metric_that_the_store_cannot_name_is_a_rejection(tmp_path: Path, store: Path) -> None:
    sender = Sender(f"sqlite:///{shutil.copy(store, tmp_path)}")
    experiment = sender.create_experiment("rejections", None)
    run = sender.client.create_run(experiment).info.run_id
    update = RunUpdate(0, metrics=(Metric("no (such) name?", 1.0, 0, 0),))
    with pytest.raises(RejectedError, match="no \\(such\\) name"):
        sender.update_run(run, update, status="RUNNING")
