"""Jobs on a real SLURM that are signalled, cancelled, preempted or lose a host: their runs end bit for bit alike."""

from __future__ import annotations

import pytest
from cluster import Cluster, until
from user_folder import (
    ALONE,
    RECIPE,
    UserFolder,
    curve,
    in_mlflow,
    only,
    reasons,
    starts,
    user_folder,
)

from tests.patience import PATIENCE_S


@pytest.fixture(scope="module")
def user(cluster: Cluster) -> UserFolder:
    return user_folder(cluster, "ends")


LONG = {**RECIPE, "epochs": 8}


@pytest.fixture(scope="module")
def undisturbed(user: UserFolder) -> list[tuple[float, float]]:
    """The loss curve of the long run without any interruption."""
    user.write("long", recipe=LONG, resources=ALONE)
    alone = UserFolder(user.cluster, user.folder, "undisturbed")
    alone.deeper("run", "long.yaml", "--no-publish")
    expected = curve(alone.events(only(alone)))
    assert len(expected) == LONG["epochs"]
    return expected


def test_a_run_continues_bit_for_bit_after_the_signal_before_the_time_limit(
    user: UserFolder, undisturbed: list[tuple[float, float]]
) -> None:
    there = UserFolder(user.cluster, user.folder, "signalled")
    job = there.submit("long", nodes=1)["grid"]
    there.begun(only(there))
    user.cluster.login("scancel", "--batch", "--signal=USR1", job)  # what --signal=B:USR1@N sends
    there.ended("long", job)
    events = there.events(only(there))
    assert user.cluster.job(job)["Restarts"] == "1"
    assert reasons(events) == ["time limit", None]
    assert curve(events) == undisturbed, "bit for bit"


@pytest.mark.long
def test_a_run_continues_bit_for_bit_after_scancel_and_a_new_submission(
    user: UserFolder, undisturbed: list[tuple[float, float]]
) -> None:
    there = UserFolder(user.cluster, user.folder, "cancelled")
    job = there.submit("long", "--no-report", nodes=1)["grid"]
    there.begun(only(there))
    user.cluster.login("scancel", job)
    there.ended("long", job, "CANCELLED")
    until(lambda: reasons(there.events(only(there))), "the end of the attempt", seconds=PATIENCE_S)
    assert reasons(there.events(only(there))) == ["cancelled"]
    jobs = there.submit("long", nodes=1)
    there.ended("long", jobs["grid"])
    there.ended("long", jobs["report"])
    assert curve(there.events(only(there))) == undisturbed, "bit for bit"
    assert in_mlflow(there, "long") == {only(there): "FINISHED"}


@pytest.mark.long
def test_the_runs_of_a_worker_node_that_dies_finish_on_the_other_node(
    user: UserFolder, undisturbed: list[tuple[float, float]]
) -> None:
    there = UserFolder(user.cluster, user.folder, "host-lost")
    user.write("two-long", recipe=LONG, resources=ALONE, seeds=[0, 1])
    job = there.submit("two-long", "--no-report", cpus_per_node=2)["grid"]
    keys = [run["key"] for run in there.runs("two-long").values()]
    for key in keys:
        there.begun(key)
    try:
        user.cluster.kill_host("n2")
        there.ended("two-long", job)
    finally:
        user.cluster.start_host("n2")
    assert sorted(starts(there.events(key)) for key in keys) == [1, 2]
    assert curve(there.events(keys[0])) == undisturbed, "bit for bit"


@pytest.mark.long
def test_a_run_continues_bit_for_bit_after_a_preemption(
    user: UserFolder, undisturbed: list[tuple[float, float]]
) -> None:
    there = UserFolder(user.cluster, user.folder, "preempted")
    job = there.submit("long", "--no-report", nodes=1, partition="low")["grid"]
    there.begun(only(there))
    user.cluster.login("sbatch", "--partition=high", "--nodes=2", "--exclusive", "--wrap", "sleep 10")
    there.ended("long", job)
    events = there.events(only(there))
    assert reasons(events) == ["preempted", None]
    assert curve(events) == undisturbed, "bit for bit"


@pytest.mark.long
def test_a_worker_node_requeues_the_job_when_the_head_node_dies(
    user: UserFolder, undisturbed: list[tuple[float, float]]
) -> None:
    there = UserFolder(user.cluster, user.folder, "first-host-lost")
    job = there.submit("long", "--no-report")["grid"]
    there.begun(only(there))
    user.cluster.kill_host("n1")
    until(lambda: int(user.cluster.job(job)["Restarts"]) == 1, "the requeue", seconds=90)
    user.cluster.start_host("n1")
    there.ended("long", job)
    assert curve(there.events(only(there))) == undisturbed, "bit for bit"
