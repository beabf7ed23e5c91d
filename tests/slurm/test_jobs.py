"""Experiments as a user submits them, on a real SLURM of two hosts: real Ray, gloo, FFCV files and MLflow."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from cluster import Cluster, until

from bench.records.states import read_events, run_folder
from reproduce import schema
from reproduce.data import synthetic
from reproduce.data.writing import prepare

RECIPE = {"epochs": 2, "batch_size": 32, "learning_rate": 0.02, "resolution": 32}
ARM = {"both": {"network": {"aux": "both"}}}
PROFILE = {"time": "20:00", "nodes": 2, "cpus_per_node": 2, "memory_gib": 3, "signal_before_s": 20}
OVER_BOTH = {"workers": 2, "cpus_per_worker": 2}
ALONE = {"workers": 1, "cpus_per_worker": 2}
PATIENCE_S = 420


class UserFolder:
    """A user's folder on the shared file system, and the commands that the user types on the login node."""

    def __init__(self, cluster: Cluster, folder: Path, records: str = "records") -> None:
        self.cluster, self.folder, self.records = cluster, folder, folder / records

    def write(self, name: str, **changes: Any) -> None:
        content = {"name": name, "data": {"path": "stripes"}, "recipe": RECIPE, "arms": ARM, "seeds": [0], **changes}
        (self.folder / f"{name}.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")

    def deeper(self, *arguments: str, check: bool = True) -> Any:
        command = [sys.executable, "-m", "bench.cli", *arguments, "--records", str(self.records)]
        environment = {"MLFLOW_TRACKING_URI": ""}
        return self.cluster.login(*command, cwd=self.folder, timeout=PATIENCE_S, check=check, env=environment)

    def submit(self, name: str, *options: str, **profile: Any) -> dict[str, str]:
        (self.folder / "profile.yaml").write_text(yaml.safe_dump({**PROFILE, **profile}), encoding="utf-8")
        self.deeper("slurm", "submit", f"{name}.yaml", "--profile", "profile.yaml", *options)
        submissions = sorted((self.records / "experiments" / name / "slurm").iterdir())
        return dict(json.loads((submissions[-1] / "jobs.json").read_text(encoding="utf-8")))

    def log(self, name: str) -> str:
        return "\n".join(
            path.read_text(encoding="utf-8") for path in self.records.glob(f"experiments/{name}/slurm/*/*.log")
        )

    def runs(self, name: str) -> dict[str, dict[str, Any]]:
        return {run["run"]: run for run in json.loads(self.deeper("status", name, "--json").stdout)["runs"]}

    def ended(self, name: str, job: str, state: str = "COMPLETED") -> None:
        assert self.cluster.wait(job, timeout=PATIENCE_S) == state, self.log(name)

    def events(self, key: str) -> list[dict[str, Any]]:
        return read_events(run_folder(self.records, key))

    def begun(self, key: str, epochs: int = 1) -> None:
        """Wait until a number of epochs of a run are recorded."""

        def enough() -> bool:
            return sum(event["kind"] == schema.EPOCH for event in self.events(key)) >= epochs

        until(enough, f"{epochs} epochs", seconds=PATIENCE_S)


@pytest.fixture(scope="module")
def user(cluster: Cluster) -> UserFolder:
    folder = cluster.shared / "user"
    folder.mkdir()
    source = synthetic(classes=4, images=256, size=32, seed=0)
    prepare(source, folder / "data" / "stripes")
    return UserFolder(cluster, folder)


def curve(events: list[dict[str, Any]]) -> list[tuple[float, float]]:
    epochs = [event["metrics"] for event in events if event["kind"] == schema.EPOCH]
    return [(metrics[schema.TRAIN_LOSS], metrics[schema.VAL_LOSS]) for metrics in epochs]


def starts(events: list[dict[str, Any]]) -> int:
    return sum(event["kind"] == schema.START for event in events)


def in_mlflow(user: UserFolder, name: str) -> dict[str, str]:
    """Status in MLflow by run key; fails if a key occurs twice."""
    import mlflow

    client = mlflow.MlflowClient(f"sqlite:///{user.records / 'mlflow.db'}")
    runs = client.search_runs([client.get_experiment_by_name(name).experiment_id])
    keys = [run.data.tags[schema.TAG_KEY] for run in runs if schema.TAG_KEY in run.data.tags]
    assert len(keys) == len(set(keys)), keys
    return {run.data.tags[schema.TAG_KEY]: run.info.status for run in runs if schema.TAG_KEY in run.data.tags}


def test_a_run_spans_two_hosts_and_the_report_follows_a_failed_run(user: UserFolder) -> None:
    diverging = {"recipe": {"learning_rate": 1e30}}
    user.write("over-both", arms={**ARM, "diverging": diverging}, resources=OVER_BOTH)
    jobs = user.submit("over-both")
    user.ended("over-both", jobs["grid"], "FAILED")
    user.ended("over-both", jobs["report"])
    runs = user.runs("over-both")
    assert {name: run["state"] for name, run in runs.items()} == {"both s0": "finished", "diverging s0": "failed"}
    assert user.events(runs["both s0"]["key"])[0]["world_size"] == 2
    assert "loss is not finite" in user.log("over-both"), "the report's log says which run failed and why"
    assert "diverging" in (user.records / "reports" / "over-both" / "index.html").read_text(encoding="utf-8")
    assert in_mlflow(user, "over-both") == {
        runs["both s0"]["key"]: "FINISHED",
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


def only(user: UserFolder) -> str:
    """The key of the only run."""
    until(lambda: list(user.records.glob("runs/*")), "a run", seconds=PATIENCE_S)
    (path,) = user.records.glob("runs/*")
    return path.name


def reasons(events: list[dict[str, Any]]) -> list[str | None]:
    return [event["reason"] for event in events if event["kind"] == schema.END]


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
