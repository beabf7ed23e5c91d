"""Jobs that have nothing left to do, or nowhere to write."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from bench.console.exit_codes import DONE, FAILED, INTERRUPTED, WRONG_INPUT
from bench.records.plan import read_plans
from bench.records.record import Record
from bench.records.states import run_folder
from slurm.job.config import PLAN_HASH

if TYPE_CHECKING:
    from tests.slurm.job.conftest import DriverDouble, RayDouble, Submission
    from tests.slurm.job.head_node.conftest import MakeHead


def test_a_job_whose_runs_have_all_ended_starts_no_ray(
    head: MakeHead, submission: Submission, ray: RayDouble, capsys: pytest.CaptureFixture[str]
) -> None:
    config = submission.config
    [plan] = read_plans(config.records, "tiny")
    (config.folder / PLAN_HASH).write_text(plan.hash, encoding="utf-8")
    for entry in plan.entries:
        Record(run_folder(config.records, entry.key)).abandon("wrong")
    assert head().run() == FAILED
    assert "nothing is left to do" in capsys.readouterr().err
    assert ray.arguments == {}
    assert head(run_options=("--retry-failed",)).run() == DONE
    assert ray.killed


def test_a_full_disk_fails_no_run_and_requeues_nothing(
    head: MakeHead, submission: Submission, driver: DriverDouble
) -> None:
    driver.code, driver.mistake = INTERRUPTED, "checkpoint.pt cannot be written: the disk /project is full"
    assert head().run() == WRONG_INPUT
    assert set(submission.statuses().values()) == {"waiting"}


@pytest.mark.skipif(os.geteuid() != 0, reason="another user's id needs root")
def test_records_that_this_node_may_not_write_are_one_sentence(
    head: MakeHead, submission: Submission, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder in (submission.config.folder, *submission.config.folder.parents):
        if folder.is_relative_to("/tmp/pytest-of-root"):
            folder.chmod(0o755)
    os.seteuid(65534)
    try:
        assert head().run() == WRONG_INPUT
    finally:
        os.seteuid(0)
    assert f"--records: {submission.config.folder} cannot be written on this node" in capsys.readouterr().err
