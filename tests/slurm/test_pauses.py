"""Jobs on a real SLURM that are suspended, lose their controller for a minute, or may not be requeued any more."""

from __future__ import annotations

import time

import pytest
from cluster import until
from user_folder import PATIENCE_S, LongRun, curve, only, reasons

PAUSE_S = 45
"""Longer than Ray's own patience with a node that does not answer."""


@pytest.mark.long
def test_a_suspended_job_goes_on_where_it_was(long_run: LongRun) -> None:
    there = long_run.disturbed("suspended")
    job = there.submit("long", "--no-report", nodes=1)["grid"]
    there.begun(only(there))
    there.cluster.login("scontrol", "suspend", job)
    assert there.cluster.job(job)["JobState"] == "SUSPENDED"
    before = len(there.events(only(there)))
    time.sleep(PAUSE_S)
    assert len(there.events(only(there))) == before, "nothing computes"
    there.cluster.login("scontrol", "resume", job)
    there.ended("long", job)
    events = there.events(only(there))
    assert reasons(events) == [None], "in one attempt"
    assert curve(events) == long_run.curve, "bit for bit"


@pytest.mark.long
def test_a_controller_that_is_away_for_a_minute_disturbs_no_run_and_delays_a_requeue(long_run: LongRun) -> None:
    """The time limit comes while it is away: the job asks until it answers, and is then requeued."""
    there = long_run.disturbed("controller")
    job = there.submit("long", "--no-report", nodes=1)["grid"]
    there.begun(only(there))
    host = there.cluster.job(job)["BatchHost"]
    there.cluster.kill_controller()
    try:
        status = there.deeper("status", "long").stdout
        assert "nothing is known about them: SLURM: squeue" in " ".join(status.split())
        epochs = len(curve(there.events(only(there))))
        there.begun(only(there), epochs + 1)
        script = "pkill -USR1 --oldest --full slurm_script"
        there.cluster.on(host, "bash", "-c", script)  # as slurmd does for --signal=B:USR1@N
        until(lambda: reasons(there.events(only(there))), "the end of the attempt", seconds=PATIENCE_S)
        time.sleep(60)
    finally:
        there.cluster.start_controller()
    there.ended("long", job)
    events = there.events(only(there))
    assert reasons(events) == ["time limit", None]
    assert there.cluster.job(job)["Restarts"] == "1"
    assert curve(events) == long_run.curve, "bit for bit"


@pytest.mark.long
def test_a_job_that_may_not_be_requeued_any_more_says_so_and_a_new_submission_continues(long_run: LongRun) -> None:
    there = long_run.disturbed("bounded")
    job = there.submit("long", "--no-report", nodes=1, requeues=1)["grid"]
    for ended in (1, 2):
        until(lambda: there.cluster.job(job)["JobState"] == "RUNNING", "the start", seconds=PATIENCE_S)
        begun = len(curve(there.events(only(there))))
        there.begun(only(there), begun + 1)
        there.cluster.login("scancel", "--batch", "--signal=USR1", job)
        until(lambda: len(reasons(there.events(only(there)))) == ended, "the end", seconds=PATIENCE_S)  # noqa: B023
    there.ended("long", job, "FAILED")
    assert there.cluster.job(job)["ExitCode"] == "75:0"
    log = there.log("long")
    assert "interrupted; requeueing for restart 1 of at most 1" in log
    assert "interrupted after 1 restarts, and the profile allows 1 (requeues); submit again to continue" in log
    assert there.runs("long")["both s0"]["state"] == "interrupted"
    there.ended("long", there.submit("long", "--no-report", nodes=1)["grid"])
    assert curve(there.events(only(there))) == long_run.curve, "bit for bit"
