"""Experiments as a user submits them, on a real SLURM of two hosts: real Ray, gloo, FFCV files and MLflow."""

from __future__ import annotations

import re

import pytest
from cluster import Cluster
from user_folder import (
    ALONE,
    ARM,
    OVER_BOTH,
    RECIPE,
    UserFolder,
    in_mlflow,
    starts,
    user_folder,
)


@pytest.fixture(scope="module")
def user(cluster: Cluster) -> UserFolder:
    return user_folder(cluster, "user")


def test_runs_of_two_and_of_one_host_share_a_job_and_the_report_follows_a_failed_run(user: UserFolder) -> None:
    more = {"alone": {"resources": {"workers": 1}}, "diverging": {"recipe": {"learning_rate": 1e30}}}
    user.write("over-both", arms={**ARM, **more}, resources=OVER_BOTH)
    jobs = user.submit("over-both")
    user.ended("over-both", jobs["grid"], "FAILED")
    user.ended("over-both", jobs["report"])
    runs = user.runs("over-both")
    states = {name: run["state"] for name, run in runs.items()}
    assert states == {"both s0": "finished", "alone s0": "finished", "diverging s0": "failed"}
    assert [user.events(runs[name]["key"])[0]["world_size"] for name in ("both s0", "alone s0")] == [2, 1]
    assert "Ray is up on 2 nodes" in user.log("over-both")
    assert "loss is not finite" in user.log("over-both"), "the report's log says which run failed and why"
    assert "diverging" in (user.records / "reports" / "over-both" / "index.html").read_text(encoding="utf-8")
    assert in_mlflow(user, "over-both") == {
        runs["both s0"]["key"]: "FINISHED",
        runs["alone s0"]["key"]: "FINISHED",
        runs["diverging s0"]["key"]: "FAILED",
    }


def test_an_unusable_scratch_fails_the_selected_runs_with_one_sentence(user: UserFolder) -> None:
    user.write("unseen", resources=ALONE, seeds=[7, 8])
    jobs = user.submit("unseen", "--no-report", "--seed", "7", nodes=1, scratch="/proc/none")
    user.ended("unseen", jobs["grid"], "FAILED")
    runs = user.runs("unseen")
    assert {name: run["state"] for name, run in runs.items()} == {"both s7": "failed", "both s8": "waiting"}
    run = runs["both s7"]
    assert re.fullmatch(r"n[12]: scratch: /proc/none: .*; name a folder that jobs may write to", run["error"])


def test_elements_of_an_array_share_the_runs_of_an_experiment_and_repeat_none(user: UserFolder) -> None:
    user.write("shared-grid", resources=ALONE, seeds=[0, 1, 2, 3], recipe={**RECIPE, "epochs": 1})
    jobs = user.submit("shared-grid", "--split", "2", nodes=1)
    user.ended("shared-grid", jobs["report"])
    runs = user.runs("shared-grid")
    assert {run["state"] for run in runs.values()} == {"finished"}
    assert [starts(user.events(run["key"])) for run in runs.values()] == [1, 1, 1, 1]
    elements = {
        run["key"]: (user.records / "runs" / run["key"] / "lease").read_text(encoding="utf-8") for run in runs.values()
    }
    assert len({who.split("job ")[1] for who in elements.values()}) == 2, "both elements have worked"
    assert in_mlflow(user, "shared-grid") == {run["key"]: "FINISHED" for run in runs.values()}
