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


class Place:
    """A user's folder on the shared file system, and the command as typed on the login node."""

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
        """Wait until so many epochs of a run are recorded."""

        def enough() -> bool:
            return sum(event["kind"] == schema.EPOCH for event in self.events(key)) >= epochs

        until(enough, f"{epochs} epochs", seconds=PATIENCE_S)


@pytest.fixture(scope="module")
def place(cluster: Cluster) -> Place:
    folder = cluster.shared / "user"
    folder.mkdir()
    source = synthetic(classes=4, images=256, size=32, seed=0)
    prepare(source, folder / "data" / "stripes")
    return Place(cluster, folder)


def curve(events: list[dict[str, Any]]) -> list[tuple[float, float]]:
    epochs = [event["metrics"] for event in events if event["kind"] == schema.EPOCH]
    return [(metrics[schema.TRAIN_LOSS], metrics[schema.VAL_LOSS]) for metrics in epochs]


def starts(events: list[dict[str, Any]]) -> int:
    return sum(event["kind"] == schema.START for event in events)


def in_mlflow(place: Place, name: str) -> dict[str, str]:
    """Status in MLflow by run key; a key that is there twice fails."""
    import mlflow

    client = mlflow.MlflowClient(f"sqlite:///{place.records / 'mlflow.db'}")
    runs = client.search_runs([client.get_experiment_by_name(name).experiment_id])
    keys = [run.data.tags[schema.TAG_KEY] for run in runs if schema.TAG_KEY in run.data.tags]
    assert len(keys) == len(set(keys)), keys
    return {run.data.tags[schema.TAG_KEY]: run.info.status for run in runs if schema.TAG_KEY in run.data.tags}


def test_one_run_over_two_hosts_and_its_report_after_a_failed_one(place: Place) -> None:
    diverging = {"recipe": {"learning_rate": 1e30}}
    place.write("over-both", arms={**ARM, "diverging": diverging}, resources=OVER_BOTH)
    jobs = place.submit("over-both")
    place.ended("over-both", jobs["grid"], "FAILED")
    place.ended("over-both", jobs["report"])
    runs = place.runs("over-both")
    assert {name: run["state"] for name, run in runs.items()} == {"both s0": "finished", "diverging s0": "failed"}
    assert place.events(runs["both s0"]["key"])[0]["world_size"] == 2
    assert "loss is not finite" in place.log("over-both"), "the report's log says which run failed and why"
    assert "diverging" in (place.records / "reports" / "over-both" / "index.html").read_text(encoding="utf-8")
    assert in_mlflow(place, "over-both") == {
        runs["both s0"]["key"]: "FINISHED",
        runs["diverging s0"]["key"]: "FAILED",
    }


def test_data_that_a_node_does_not_see_fail_the_chosen_runs_with_that_sentence(place: Place) -> None:
    place.write("unseen", resources=ALONE, seeds=[7, 8])
    jobs = place.submit("unseen", "--no-report", "--seed", "7", nodes=1, scratch="/proc/none")
    place.ended("unseen", jobs["grid"], "FAILED")
    runs = place.runs("unseen")
    assert {name: run["state"] for name, run in runs.items()} == {"both s7": "failed", "both s8": "waiting"}
    run = runs["both s7"]
    assert re.fullmatch(r"n[12]: scratch: /proc/none: .*; name a folder that jobs may write to", run["error"])


LONG = {**RECIPE, "epochs": 8}


@pytest.fixture(scope="module")
def undisturbed(place: Place) -> list[tuple[float, float]]:
    """The curve of the long run, left alone."""
    place.write("long", recipe=LONG, resources=ALONE)
    alone = Place(place.cluster, place.folder, "undisturbed")
    alone.deeper("run", "long.yaml", "--no-publish")
    expected = curve(alone.events(only(alone)))
    assert len(expected) == LONG["epochs"]
    return expected


def only(place: Place) -> str:
    """The key of the one run."""
    until(lambda: list(place.records.glob("runs/*")), "a run", seconds=PATIENCE_S)
    (path,) = place.records.glob("runs/*")
    return path.name


def reasons(events: list[dict[str, Any]]) -> list[str | None]:
    return [event["reason"] for event in events if event["kind"] == schema.END]


def test_the_signal_before_the_time_limit_leads_to_a_requeue_and_the_same_end(
    place: Place, undisturbed: list[tuple[float, float]]
) -> None:
    there = Place(place.cluster, place.folder, "signalled")
    job = there.submit("long", nodes=1)["grid"]
    there.begun(only(there))
    place.cluster.login("scancel", "--batch", "--signal=USR1", job)  # what --signal=B:USR1@N sends
    there.ended("long", job)
    events = there.events(only(there))
    assert place.cluster.job(job)["Restarts"] == "1"
    assert reasons(events) == ["time limit", None]
    assert curve(events) == undisturbed, "bit for bit"


def test_a_cancelled_job_leaves_everything_resumable(place: Place, undisturbed: list[tuple[float, float]]) -> None:
    there = Place(place.cluster, place.folder, "cancelled")
    job = there.submit("long", "--no-report", nodes=1)["grid"]
    there.begun(only(there))
    place.cluster.login("scancel", job)
    there.ended("long", job, "CANCELLED")
    until(lambda: reasons(there.events(only(there))), "the end of the attempt", seconds=30)
    assert reasons(there.events(only(there))) == ["cancelled"]
    jobs = there.submit("long", nodes=1)
    there.ended("long", jobs["grid"])
    there.ended("long", jobs["report"])
    assert curve(there.events(only(there))) == undisturbed, "bit for bit"
    assert in_mlflow(there, "long") == {only(there): "FINISHED"}


def test_elements_of_an_array_share_a_grid_on_one_host_without_doing_a_run_twice(place: Place) -> None:
    place.write("shared-grid", resources=ALONE, seeds=[0, 1, 2, 3], recipe={**RECIPE, "epochs": 1})
    jobs = place.submit("shared-grid", "--split", "2", nodes=1)
    place.ended("shared-grid", jobs["report"])
    runs = place.runs("shared-grid")
    assert {run["state"] for run in runs.values()} == {"finished"}
    assert [starts(place.events(run["key"])) for run in runs.values()] == [1, 1, 1, 1]
    elements = {
        run["key"]: (place.records / "runs" / run["key"] / "lease").read_text(encoding="utf-8") for run in runs.values()
    }
    assert len({who.split("job ")[1] for who in elements.values()}) == 2, "both elements have worked"
    assert in_mlflow(place, "shared-grid") == {run["key"]: "FINISHED" for run in runs.values()}


def test_a_host_that_dies_takes_no_run_with_it(place: Place, undisturbed: list[tuple[float, float]]) -> None:
    there = Place(place.cluster, place.folder, "host-lost")
    place.write("two-long", recipe=LONG, resources=ALONE, seeds=[0, 1])
    job = there.submit("two-long", "--no-report", cpus_per_node=2)["grid"]
    keys = [run["key"] for run in there.runs("two-long").values()]
    for key in keys:
        there.begun(key)
    try:
        place.cluster.kill_host("n2")
        there.ended("two-long", job)
    finally:
        place.cluster.start_host("n2")
    assert sorted(starts(there.events(key)) for key in keys) == [1, 2]
    assert curve(there.events(keys[0])) == undisturbed, "bit for bit"


@pytest.mark.long
def test_a_preempted_job_is_requeued_to_the_same_end(place: Place, undisturbed: list[tuple[float, float]]) -> None:
    there = Place(place.cluster, place.folder, "preempted")
    job = there.submit("long", "--no-report", nodes=1, partition="low")["grid"]
    there.begun(only(there))
    place.cluster.login("sbatch", "--partition=high", "--nodes=2", "--exclusive", "--wrap", "sleep 10")
    there.ended("long", job)
    events = there.events(only(there))
    assert reasons(events) == ["preempted", None]
    assert curve(events) == undisturbed, "bit for bit"


@pytest.mark.long
def test_the_first_host_of_a_job_dies_and_the_other_one_has_it_requeued(
    place: Place, undisturbed: list[tuple[float, float]]
) -> None:
    there = Place(place.cluster, place.folder, "first-host-lost")
    job = there.submit("long", "--no-report")["grid"]
    there.begun(only(there))
    place.cluster.kill_host("n1")
    until(lambda: int(place.cluster.job(job)["Restarts"]) == 1, "the requeue", seconds=90)
    place.cluster.start_host("n1")
    there.ended("long", job)
    assert curve(there.events(only(there))) == undisturbed, "bit for bit"
