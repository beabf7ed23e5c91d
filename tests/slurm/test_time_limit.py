"""Jobs that SLURM itself stops for their time limit: their runs end bit for bit like one that is left alone."""

from __future__ import annotations

from pathlib import Path

import pytest
from cluster import Cluster
from patching import write_change
from user_folder import ALONE, RECIPE, UserFolder, curve, only, reasons, user_folder

ROOT = Path(__file__).parents[2]
LOADS_SLOWLY = """
def change(module):
    import time

    load = module.TrainLoader.epoch

    def load_slowly(*arguments):
        for batch in load(*arguments):
            time.sleep(5)
            yield batch

    module.TrainLoader.epoch = load_slowly
"""
"""So that the run outlasts the limit on machines of any speed: SLURM ends a job of two minutes up to 30 s later."""
OUTLASTING = {**RECIPE, "epochs": 4}


def slow_user(cluster: Cluster, name: str) -> tuple[UserFolder, dict[str, list[str]], list[tuple[float, float]]]:
    """A user, the profile of jobs that load slowly, and the loss curve of the run outside of SLURM, which does not."""
    user = user_folder(cluster, name)
    user.write("outlasting", recipe=OUTLASTING, resources=ALONE)
    alone = UserFolder(cluster, user.folder, "undisturbed")
    alone.deeper("run", "outlasting.yaml", "--no-publish")
    slow = user.folder / "slow"
    slow.mkdir()
    write_change(slow, "reproduce.data.loading.loaders", LOADS_SLOWLY)
    return user, {"setup": [f"export PYTHONPATH={slow}:{ROOT}"]}, curve(alone.events(only(alone)))


@pytest.mark.long
def test_the_signal_that_slurm_sends_before_the_time_limit_stops_a_run_which_continues_bit_for_bit(
    cluster: Cluster,
) -> None:
    user, slow, undisturbed = slow_user(cluster, "limited")
    job = user.submit("outlasting", "--no-report", nodes=1, time="2:00", **slow)["grid"]
    user.ended("outlasting", job)
    events = user.events(only(user))
    restarts = int(cluster.job(job)["Restarts"])
    assert restarts >= 1
    assert reasons(events) == ["time limit"] * restarts + [None]
    assert user.log("outlasting").count("job.sh: time limit: every run writes a checkpoint and stops") == restarts
    assert curve(events) == undisturbed, "bit for bit"


@pytest.mark.long
def test_a_job_that_slurm_ends_at_its_time_limit_is_requeued_and_continues_with_slurms_own_default_times(
    patient_cluster: Cluster,
) -> None:
    """A signal before the limit that means nothing here leaves the runs the seconds between SIGTERM and SIGKILL."""
    defaults = patient_cluster.login("scontrol", "show", "config").stdout
    assert "cred_expire" not in defaults
    assert "KillWait                = 30 sec" in defaults
    user, slow, undisturbed = slow_user(patient_cluster, "ended")
    job = user.submit_by_hand("outlasting", sbatch=("--signal=B:CONT@1",), nodes=1, time="2:00", **slow)
    user.ended("outlasting", job)
    events = user.events(only(user))
    restarts = int(patient_cluster.job(job)["Restarts"])
    assert restarts >= 1
    assert reasons(events) == ["time limit"] * restarts + [None]
    log = user.log("outlasting")
    assert log.count("job.sh: SIGTERM: waiting for the launcher to end") == restarts
    assert f"interrupted; requeueing for restart {restarts} of at most 10" in log
    assert curve(events) == undisturbed, "bit for bit"
