"""What a real accounting, by slurmdbd and MariaDB, says of jobs, beside what the records say of them."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from cluster import Cluster, until
from user_folder import ALONE, ARM, RECIPE, UserFolder, reasons, user_folder

from tests.patience import PATIENCE_S


@pytest.fixture(scope="module")
def user(cluster_with_accounts: Cluster) -> UserFolder:
    return user_folder(cluster_with_accounts, "accounts")


def listed(user: UserFolder, name: str) -> dict[str, Any]:
    [job] = json.loads(user.deeper("slurm", "list", name, "--json").stdout)
    return dict(job)


@pytest.mark.long
def test_the_accounting_agrees_with_the_record_of_a_job_and_is_asked_once_the_controller_has_forgotten_it(
    user: UserFolder,
) -> None:
    diverging = {"recipe": {"learning_rate": 1e30}}
    user.write("counted", arms={**ARM, "diverging": diverging}, resources=ALONE, recipe={**RECIPE, "epochs": 6})
    job = user.submit("counted", "--no-report", nodes=1)["grid"]
    key = user.runs("counted")["both s0"]["key"]
    user.begun(key)
    user.cluster.login("scancel", "--batch", "--signal=USR1", job)
    user.ended("counted", job, "FAILED")
    known = listed(user, "counted")
    assert (known["state"], known["restarts"], known["limit_s"]) == ("FAILED", 1, 1200)

    starts = ("sacct", "--allocations", "--duplicates", "--noheader", "--parsable2", "--format=State,ExitCode")
    accounted = user.cluster.login(*starts, f"--jobs={job}").stdout.split()
    assert accounted == ["REQUEUED|0:0", "FAILED|1:0"]
    assert reasons(user.events(key)) == ["time limit", None]
    assert re.findall(r"ended with exit code (\d+)", user.log("counted")) == ["1"]

    asked = ("squeue", "--noheader", "--states=all", f"--jobs={job}")
    until(lambda: not user.cluster.login(*asked, check=False).stdout, "the controller to forget", seconds=PATIENCE_S)
    later = listed(user, "counted")
    assert abs(later.pop("elapsed_s") - known.pop("elapsed_s")) <= 2
    assert {**later, "reason": ""} == {**known, "reason": ""}
