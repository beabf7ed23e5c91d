"""Jobs that exceed the memory which a real SLURM grants them, by real control groups."""

from __future__ import annotations

import pytest
from cluster import Cluster
from user_folder import ALONE, RECIPE, UserFolder, starts, user_folder


@pytest.fixture(scope="module")
def user(cluster_with_limits: Cluster) -> UserFolder:
    return user_folder(cluster_with_limits, "memory")


@pytest.mark.long
def test_a_run_that_exceeds_the_memory_of_its_job_fails_at_once_with_limit_and_peak(user: UserFolder) -> None:
    """The other run of the job finishes."""
    large = {"recipe": {"resolution": 224, "batch_size": 192}}
    user.write("large", arms={"large": large, "small": {}}, resources=ALONE, recipe={**RECIPE, "epochs": 1})
    job = user.submit("large", "--no-report", nodes=1, memory_gib=3)["grid"]
    user.ended("large", job, "FAILED")
    runs = user.runs("large")
    assert {name: run["state"] for name, run in runs.items()} == {"large s0": "failed", "small s0": "finished"}
    run = runs["large s0"]
    assert run["error"].startswith("out of memory: the kernel has killed a process on n")
    assert "the processes of this job may use 3.00 GiB of memory (peak: 3.00 GiB)" in run["error"]
    assert starts(user.events(run["key"])) == 1
    assert user.cluster.job(job)["Restarts"] == "0"
    assert run["error"] in user.log("large")
