"""Experiments as a user submits them, on a real SLURM of two hosts: real Ray, gloo, FFCV files and MLflow."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from cluster import Cluster, until

from bench.states import read_events, run_folder
from reproduce import schema
from reproduce.data import PrepareOptions, prepare, synthetic

RECIPE = {"epochs": 2, "batch_size": 32, "learning_rate": 0.02, "resolution": 32}
ARM = {"both": {"network": {"aux": "both"}}}
PROFILE = {"time": "20:00", "nodes": 2, "cpus_per_node": 2, "memory_gib": 3, "signal_before_s": 20}
OVER_BOTH = {"workers": 2, "cpus_per_worker": 2}
ALONE = {"workers": 1, "cpus_per_worker": 2}
PATIENCE_S = 240


class Place:
    """A user's folder on the shared file system, and the command as typed on the login node."""

    def __init__(self, cluster: Cluster, folder: Path) -> None:
        self.cluster, self.folder, self.records = cluster, folder, folder / "records"

    def write(self, name: str, **changes: Any) -> None:
        content = {"name": name, "data": {"path": "stripes"}, "recipe": RECIPE, "arms": ARM, "seeds": [0], **changes}
        (self.folder / f"{name}.yaml").write_text(yaml.safe_dump(content))

    def deeper(self, *arguments: str, check: bool = True) -> Any:
        command = [sys.executable, "-m", "bench.cli", *arguments]
        return self.cluster.login(*command, cwd=self.folder, timeout=120, check=check, env={"MLFLOW_TRACKING_URI": ""})

    def submit(self, name: str, *options: str, **profile: Any) -> dict[str, str]:
        (self.folder / "profile.yaml").write_text(yaml.safe_dump({**PROFILE, **profile}))
        self.deeper("slurm", "submit", f"{name}.yaml", "--profile", "profile.yaml", *options)
        submissions = sorted((self.records / "experiments" / name / "slurm").iterdir())
        return dict(json.loads((submissions[-1] / "jobs.json").read_text()))

    def log(self, name: str) -> str:
        return "\n".join(path.read_text() for path in self.records.glob(f"experiments/{name}/slurm/*/*.log"))

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
    prepare(source, folder / "data" / "stripes", options=PrepareOptions(), progress=lambda *_: None)
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
    assert "diverging" in (place.records / "reports" / "over-both" / "index.html").read_text()
    assert in_mlflow(place, "over-both") == {
        runs["both s0"]["key"]: "FINISHED",
        runs["diverging s0"]["key"]: "FAILED",
    }


def test_data_that_a_node_does_not_see_fail_the_runs_with_that_sentence(place: Place) -> None:
    place.write("unseen", resources=ALONE, seeds=[7])
    jobs = place.submit("unseen", "--no-report", nodes=1, scratch="/no/such/place")
    place.ended("unseen", jobs["grid"], "FAILED")
    (run,) = place.runs("unseen").values()
    assert run["state"] == "failed"
    assert re.search(r"n[12]: scratch: /no/such/place", run["error"]) or "scratch" in run["error"]


LONG = {**RECIPE, "epochs": 8}


@pytest.fixture(scope="module")
def undisturbed(place: Place) -> Callable[[], list[tuple[float, float]]]:
    """The curve of the long run, left alone."""
    place.write("long", recipe=LONG, resources=ALONE)
    records, place.records = place.records, place.folder / "undisturbed"
    try:
        place.deeper("run", "long.yaml", "--records", str(place.records), "--no-publish")
        (key,) = (path.name for path in (place.records / "runs").iterdir())
        expected = curve(place.events(key))
    finally:
        place.records = records
    assert len(expected) == 8
    return lambda: expected
