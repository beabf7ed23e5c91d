"""Jobs on a real SLURM that are signalled, cancelled, preempted or lose a host: their runs end bit for bit alike."""

from __future__ import annotations

import pytest
from cluster import until
from user_folder import (
    ALONE,
    LONG,
    PATIENCE_S,
    LongRun,
    curve,
    in_mlflow,
    only,
    reasons,
    starts,
)


def test_a_run_continues_bit_for_bit_after_the_signal_before_the_time_limit(long_run: LongRun) -> None:
    there = long_run.disturbed("signalled")
    job = there.submit("long", nodes=1)["grid"]
    there.begun(only(there))
    there.cluster.login("scancel", "--batch", "--signal=USR1", job)  # what --signal=B:USR1@N sends
    there.ended("long", job)
    events = there.events(only(there))
    assert there.cluster.job(job)["Restarts"] == "1"
    assert reasons(events) == ["time limit", None]
    assert curve(events) == long_run.curve, "bit for bit"


@pytest.mark.long
def test_a_run_continues_bit_for_bit_after_scancel_and_a_new_submission(long_run: LongRun) -> None:
    there = long_run.disturbed("cancelled")
    job = there.submit("long", "--no-report", nodes=1)["grid"]
    there.begun(only(there))
    there.cluster.login("scancel", job)
    there.ended("long", job, "CANCELLED")
    until(lambda: reasons(there.events(only(there))), "the end of the attempt", seconds=PATIENCE_S)
    assert reasons(there.events(only(there))) == ["cancelled"]
    jobs = there.submit("long", nodes=1)
    there.ended("long", jobs["grid"])
    there.ended("long", jobs["report"])
    assert curve(there.events(only(there))) == long_run.curve, "bit for bit"
    assert in_mlflow(there, "long") == {only(there): "FINISHED"}


@pytest.mark.long
def test_the_runs_of_a_worker_node_that_dies_finish_on_the_other_node(long_run: LongRun) -> None:
    there = long_run.disturbed("host-lost")
    there.write("two-long", recipe=LONG, resources=ALONE, seeds=[0, 1])
    job = there.submit("two-long", "--no-report", cpus_per_node=2)["grid"]
    keys = [run["key"] for run in there.runs("two-long").values()]
    for key in keys:
        there.begun(key)
    try:
        there.cluster.kill_host("n2")
        there.ended("two-long", job)
    finally:
        there.cluster.start_host("n2")
    assert sorted(starts(there.events(key)) for key in keys) == [1, 2]
    assert curve(there.events(keys[0])) == long_run.curve, "bit for bit"


@pytest.mark.long
def test_a_run_continues_bit_for_bit_after_a_preemption(long_run: LongRun) -> None:
    there = long_run.disturbed("preempted")
    job = there.submit("long", "--no-report", nodes=1, partition="low")["grid"]
    there.begun(only(there))
    there.cluster.login("sbatch", "--partition=high", "--nodes=2", "--exclusive", "--wrap", "sleep 10")
    there.ended("long", job)
    events = there.events(only(there))
    assert reasons(events) == ["preempted", None]
    assert curve(events) == long_run.curve, "bit for bit"


@pytest.mark.long
def test_a_worker_node_requeues_the_job_when_the_head_node_dies(long_run: LongRun) -> None:
    there = long_run.disturbed("first-host-lost")
    job = there.submit("long", "--no-report")["grid"]
    there.begun(only(there))
    there.cluster.kill_host("n1")
    until(lambda: int(there.cluster.job(job)["Restarts"]) == 1, "the requeue", seconds=90)
    there.cluster.start_host("n1")
    there.ended("long", job)
    assert curve(there.events(only(there))) == long_run.curve, "bit for bit"
