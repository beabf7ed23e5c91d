"""Jobs on a real SLURM that are suspended, lose their controller for a minute, or may not be requeued any more."""

from __future__ import annotations

import time

import pytest
from cluster import Cluster, until
from user_folder import ALONE, RECIPE, UserFolder, curve, only, reasons, user_folder

from tests.patience import PATIENCE_S

LONG = {**RECIPE, "epochs": 8}
PAUSE_S = 45
"""Longer than Ray's own patience with a node that does not answer."""


@pytest.fixture(scope="module")
def user(cluster: Cluster) -> UserFolder:
    return user_folder(cluster, "pauses")


@pytest.fixture(scope="module")
def undisturbed(user: UserFolder) -> list[tuple[float, float]]:
    """The loss curve of the long run without any interruption."""
    user.write("long", recipe=LONG, resources=ALONE)
    alone = UserFolder(user.cluster, user.folder, "undisturbed")
    alone.deeper("run", "long.yaml", "--no-publish")
    return curve(alone.events(only(alone)))


@pytest.mark.long
def test_a_suspended_job_goes_on_where_it_was(user: UserFolder, undisturbed: list[tuple[float, float]]) -> None:
    there = UserFolder(user.cluster, user.folder, "suspended")
    job = there.submit("long", "--no-report", nodes=1)["grid"]
    there.begun(only(there))
    user.cluster.login("scontrol", "suspend", job)
    assert user.cluster.job(job)["JobState"] == "SUSPENDED"
    before = len(there.events(only(there)))
    time.sleep(PAUSE_S)
    assert len(there.events(only(there))) == before, "nothing computes"
    user.cluster.login("scontrol", "resume", job)
    there.ended("long", job)
    events = there.events(only(there))
    assert reasons(events) == [None], "in one attempt"
    assert curve(events) == undisturbed, "bit for bit"


@pytest.mark.long
def test_a_controller_that_is_away_for_a_minute_disturbs_no_run_and_delays_a_requeue(
    user: UserFolder, undisturbed: list[tuple[float, float]]
) -> None:
    """The time limit comes while it is away: the job asks until it answers, and is then requeued."""
    there = UserFolder(user.cluster, user.folder, "controller")
    job = there.submit("long", "--no-report", nodes=1)["grid"]
    there.begun(only(there))
    host = user.cluster.job(job)["BatchHost"]
    user.cluster.kill_controller()
    try:
        status = there.deeper("status", "long").stdout
        assert "nothing is known about them: SLURM: squeue" in " ".join(status.split())
        epochs = len(curve(there.events(only(there))))
        there.begun(only(there), epochs + 1)
        script = "pkill -USR1 --oldest --full slurm_script"
        user.cluster.on(host, "bash", "-c", script)  # as slurmd does for --signal=B:USR1@N
        until(lambda: reasons(there.events(only(there))), "the end of the attempt", seconds=PATIENCE_S)
        time.sleep(60)
    finally:
        user.cluster.start_controller()
    there.ended("long", job)
    events = there.events(only(there))
    assert reasons(events) == ["time limit", None]
    assert user.cluster.job(job)["Restarts"] == "1"
    assert curve(events) == undisturbed, "bit for bit"


@pytest.mark.long
def test_a_job_that_may_not_be_requeued_any_more_says_so_and_a_new_submission_continues(
    user: UserFolder, undisturbed: list[tuple[float, float]]
) -> None:
    there = UserFolder(user.cluster, user.folder, "bounded")
    job = there.submit("long", "--no-report", nodes=1, requeues=1)["grid"]
    for ended in (1, 2):
        until(lambda: user.cluster.job(job)["JobState"] == "RUNNING", "the start", seconds=PATIENCE_S)
        begun = len(curve(there.events(only(there))))
        there.begun(only(there), begun + 1)
        user.cluster.login("scancel", "--batch", "--signal=USR1", job)
        until(lambda: len(reasons(there.events(only(there)))) == ended, "the end", seconds=PATIENCE_S)  # noqa: B023
    there.ended("long", job, "FAILED")
    assert user.cluster.job(job)["ExitCode"] == "75:0"
    log = there.log("long")
    assert "interrupted; requeueing for restart 1 of at most 1" in log
    assert "interrupted after 1 restarts, and the profile allows 1 (requeues); submit again to continue" in log
    assert there.runs("long")["both s0"]["state"] == "interrupted"
    there.ended("long", there.submit("long", "--no-report", nodes=1)["grid"])
    assert curve(there.events(only(there))) == undisturbed, "bit for bit"
