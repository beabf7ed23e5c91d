"""Two jobs at once on one host of a real SLURM, whose control groups give each job cores of its own."""

from __future__ import annotations

import json
import shutil
import sys
from typing import Any

import pytest
from cluster import Cluster, until
from user_folder import ALONE, RECIPE, UserFolder, user_folder

from tests.patience import PATIENCE_S

ONE_CORE = {**ALONE, "cpus_per_worker": 1}
ON_ONE_HOST = {"nodes": 1, "cpus_per_node": 1, "sbatch": ["--nodelist=n1", "--hold"]}
WORKERS = """
import contextlib, json, psutil
found = {}
for process in psutil.process_iter():
    with contextlib.suppress(psutil.Error):  # it ends just now
        if process.name().startswith("ray::Worker"):
            job = process.environ()["SLURM_JOB_ID"]
            found[job] = {"user": process.username(), "cores": process.cpu_affinity()}
print(json.dumps(found))
"""
FOLDERS = ("find", "/tmp", "-maxdepth", "1", "-name", "deeper-*", "-printf", "%f %u %m\\n")


def tenant(cluster: Cluster, owner: str, name: str) -> UserFolder:
    """The folder of a user of the machine, which no other user can read."""
    user = user_folder(cluster, name)
    for path in (user.folder, *user.folder.rglob("*")):
        shutil.chown(path, owner, owner)
    user.folder.chmod(0o700)
    user.prefix = ("setpriv", f"--reuid={owner}", f"--regid={owner}", "--clear-groups", "env", f"HOME={user.folder}")
    return user


@pytest.mark.long
@pytest.mark.parametrize("owners", [("daemon", "daemon"), ("daemon", "games")], ids=["one user", "two users"])
def test_two_jobs_on_one_host_share_neither_ray_nor_folders_nor_cores_and_both_finish(
    cluster_with_limits: Cluster, owners: tuple[str, str]
) -> None:
    cluster = cluster_with_limits
    users: dict[str, UserFolder] = {}
    for number, owner in enumerate(owners):
        user = tenant(cluster, owner, f"{'-'.join(owners)}-{number}")
        user.write("shared", resources=ONE_CORE, recipe={**RECIPE, "epochs": 4})
        users[user.submit("shared", "--no-report", **ON_ONE_HOST)["grid"]] = user

    cluster.login("scontrol", "release", ",".join(users))
    found: dict[str, Any] = {}

    def both_train() -> bool:
        for job, user in users.items():
            assert cluster.job(job)["JobState"] in ("PENDING", "RUNNING"), user.log("shared")
        found.clear()
        found.update(json.loads(cluster.on("n1", sys.executable, "-c", WORKERS).stdout))
        return set(found) == set(users)

    until(both_train, "a worker of each job", seconds=PATIENCE_S)
    assert sorted(worker["user"] for worker in found.values()) == sorted(owners)
    first, second = (set(worker["cores"]) for worker in found.values())
    assert (len(first), len(second), first & second) == (1, 1, set())
    folders = [line.split() for line in cluster.on("n1", *FOLDERS).stdout.splitlines()]
    assert sorted((owner, mode) for _, owner, mode in folders) == [(owner, "700") for owner in sorted(owners)]
    for job, user in users.items():
        user.ended("shared", job)
        [run] = user.runs("shared").values()
        start, *_ = user.events(run["key"])
        assert (run["state"], start["resources"]["cpus_per_worker"]) == ("finished", 1)
    assert cluster.on("n1", *FOLDERS).stdout == ""
