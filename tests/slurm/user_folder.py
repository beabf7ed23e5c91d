"""The folder of a user of the tests' cluster, what the user types there, and what the records then hold."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import yaml
from cluster import Cluster, until

from bench.records.states import read_events, run_folder
from reproduce import schema
from reproduce.data import synthetic
from reproduce.data.writing import prepare
from tests.patience import PATIENCE_S

RECIPE = {"epochs": 2, "batch_size": 32, "learning_rate": 0.02, "resolution": 32}
ARM = {"both": {"network": {"aux": "both"}}}
PROFILE = {"time": "20:00", "nodes": 2, "cpus_per_node": 2, "memory_gib": 3, "signal_before_s": 20}
OVER_BOTH = {"workers": 2, "cpus_per_worker": 2}
ALONE = {"workers": 1, "cpus_per_worker": 2}


class UserFolder:
    """A user's folder on the shared file system, and the commands that the user types on the login node.

    Args:
        cluster: The cluster.
        folder: The folder.
        records: Name of the folder of the records in it.
        prefix: A command that precedes all others, such as `env` or `setpriv`.
    """

    def __init__(self, cluster: Cluster, folder: Path, records: str = "records", prefix: tuple[str, ...] = ()) -> None:
        self.cluster, self.folder, self.records, self.prefix = cluster, folder, folder / records, prefix

    def write(self, name: str, **changes: Any) -> None:
        content = {"name": name, "data": {"path": "stripes"}, "recipe": RECIPE, "arms": ARM, "seeds": [0], **changes}
        (self.folder / f"{name}.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")

    def deeper(self, *arguments: str, check: bool = True) -> Any:
        command = [*self.prefix, sys.executable, "-m", "bench.cli", *arguments, "--records", str(self.records)]
        environment = {"MLFLOW_TRACKING_URI": ""}
        return self.cluster.login(*command, cwd=self.folder, timeout=PATIENCE_S, check=check, env=environment)

    def submit(self, name: str, *options: str, **profile: Any) -> dict[str, str]:
        self.write_profile(**profile)
        self.deeper("slurm", "submit", f"{name}.yaml", "--profile", "profile.yaml", *options)
        submissions = sorted((self.records / "experiments" / name / "slurm").iterdir())
        return dict(json.loads((submissions[-1] / "jobs.json").read_text(encoding="utf-8")))

    def write_profile(self, **profile: Any) -> None:
        (self.folder / "profile.yaml").write_text(yaml.safe_dump({**PROFILE, **profile}), encoding="utf-8")

    def submit_by_hand(self, name: str, *options: str, sbatch: tuple[str, ...] = (), **profile: Any) -> str:
        """Render the scripts, submit that of the job with further options of `sbatch`, and return the job's id."""
        self.write_profile(**profile)
        folder = self.records / "experiments" / name / "slurm" / "by-hand"
        self.deeper("slurm", "render", f"{name}.yaml", "--profile", "profile.yaml", "--output", str(folder), *options)
        return self.cluster.login(*self.prefix, "sbatch", "--parsable", *sbatch, f"{folder}/job.sh").stdout.strip()

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


def only(user: UserFolder) -> str:
    """The key of the only run."""
    until(lambda: list(user.records.glob("runs/*")), "a run", seconds=PATIENCE_S)
    (path,) = user.records.glob("runs/*")
    return path.name


def reasons(events: list[dict[str, Any]]) -> list[str | None]:
    return [event["reason"] for event in events if event["kind"] == schema.END]


def user_folder(cluster: Cluster, name: str) -> UserFolder:
    """A user's folder with a prepared data set."""
    folder = cluster.shared / name
    folder.mkdir()
    prepare(synthetic(classes=4, images=256, size=32, seed=0), folder / "data" / "stripes")
    return UserFolder(cluster, folder)
