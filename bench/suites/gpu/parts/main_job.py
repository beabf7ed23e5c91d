"""The main job as a user types it: run, terminate, go on to the end, telemetry, report; on a few images made here."""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

from bench.console.exit_codes import DONE, INTERRUPTED
from bench.machine.environment import SOURCE
from bench.records.record import read_plan
from bench.records.states import read_state, run_folder
from bench.suites.gpu.part import Figure, Report, Task
from bench.telemetry.sampler import HOST
from reproduce import schema
from reproduce.data import synthetic
from reproduce.spec import ExperimentConfig, validated

NAME, DATA, RECORDS = "main-job", "gratings", "records"
STOP_S = 15.0  # that a stopped command may take beyond a step
CHATTER = ("ray", "gcs", "traceback", "warning", "error")
OURS = "starting Ray"
SECONDS, CODE = "s", "exit code"


def main_job(task: Task, report: Report) -> None:
    job = Job(task.scratch)
    gpu = task.device.type == "cuda"
    report.progress("preparing images")
    job.prepare(gpu=gpu, cpus=task.threads)
    rows: dict[str, dict[str, Figure]] = {}

    def tell(what: str, seconds: float, code: int | None = None) -> None:
        rows[what] = {SECONDS: seconds, CODE: None if code is None else str(code)}
        report.table("the main job", rows)

    report.progress("deeper run")
    start = time.monotonic()
    driver = job.started()
    step_s = job.await_first_step(driver)
    tell("deeper run, to its first step", time.monotonic() - start)
    report.progress("SIGTERM")
    start = time.monotonic()
    driver.send_signal(signal.SIGTERM)
    code = driver.wait()
    tell("SIGTERM, to its end", time.monotonic() - start, code)
    report.holds("terminated: exit code 75", code == INTERRUPTED)
    report.check("terminated: s to its end", time.monotonic() - start, at_most=round(STOP_S + step_s, 1))
    report.holds("terminated: the run is interrupted, with a checkpoint", job.state().status == "interrupted")

    report.progress("going on")
    start = time.monotonic()
    code = job.started().wait()
    tell("deeper run again, to its end", time.monotonic() - start, code)
    state = job.state()
    report.holds("gone on: exit code 0, finished", (code, state.status) == (DONE, "finished"))
    report.check("gone on: attempts", state.attempt, at_least=2, at_most=2)
    foreign = job.foreign_lines()
    report.check("lines of Ray's and errors on the terminal", len(foreign), at_most=0)
    for line in foreign[:3]:
        report.note(f"on the terminal: {line[:200]}")

    devices = job.telemetry_devices()
    report.holds("telemetry has rows of the host", HOST in devices)
    if gpu:
        report.holds("telemetry has rows of a GPU", any(device.startswith("GPU-") for device in devices))
        report.holds("the run has GPU metrics", schema.GPU_BUSY_PERCENT in state.metrics)
    if not job.publishes:
        report.note("no report: MLflow is not installed")
        return
    report.progress("deeper report")
    start = time.monotonic()
    code = job.call("report", NAME).wait()
    tell("deeper report", time.monotonic() - start, code)
    page = task.scratch / "reports" / NAME / "index.html"
    report.holds("the report is made", code == DONE and page.is_file())


@dataclass(frozen=True)
class Job:
    """The command in a folder of its own."""

    folder: Path

    @property
    def publishes(self) -> bool:
        return find_spec("mlflow") is not None

    @property
    def _printed(self) -> Path:
        return self.folder / "printed.txt"

    def prepare(self, *, gpu: bool, cpus: int) -> None:
        """Images, and an experiment of one run that lasts for some ten seconds."""
        from reproduce.data.writing import prepare

        images, side, batch, epochs = (2048, 64, 128, 30) if gpu else (256, 32, 32, 6)
        source = synthetic(classes=4, images=images, size=side, seed=0)
        prepare(source, self.folder / "data" / DATA)
        experiment = {
            "name": NAME,
            "data": {"path": DATA},
            "recipe": {"epochs": epochs, "batch_size": batch, "learning_rate": 0.02, "resolution": side},
            "resources": {"cpus_per_worker": min(cpus, 4) if gpu else 1, "gpus_per_worker": int(gpu)},
            "arms": {"both": {}},
            "seeds": [0],
        }
        validated(ExperimentConfig, experiment, where="main job: ")
        (self.folder / f"{NAME}.yaml").write_text(yaml.safe_dump(experiment), encoding="utf-8")

    def call(self, *arguments: str) -> subprocess.Popen[bytes]:
        """`deeper`, from this code, printing to a file."""
        environment = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(SOURCE), environment.get("PYTHONPATH")]))
        for name in ("DEEPER_RECORDS", "DEEPER_DATA"):
            environment.pop(name, None)
        with self._printed.open("ab") as printed:
            command = [sys.executable, "-m", "bench.cli", *arguments]
            return subprocess.Popen(command, cwd=self.folder, env=environment, stdout=printed, stderr=printed)

    def started(self) -> subprocess.Popen[bytes]:
        options: Sequence[str] = () if self.publishes else ("--no-publish",)
        return self.call("run", f"{NAME}.yaml", "--heartbeat-s", "0.5", *options)

    def await_first_step(self, driver: subprocess.Popen[bytes]) -> float:
        """Seconds that a step takes. Raises RuntimeError where the command ends before."""
        while not self._planned() or not (progress := self.state().progress):
            if driver.poll() is not None:
                last = self._printed.read_text(errors="replace", encoding="utf-8").strip().splitlines()[-1:]
                raise RuntimeError(f"deeper run ended with exit code {driver.returncode} before its first step: {last}")
            time.sleep(0.1)
        return float(self._batch / progress["images_per_s"])

    @property
    def _batch(self) -> int:
        return int(yaml.safe_load((self.folder / f"{NAME}.yaml").read_text(encoding="utf-8"))["recipe"]["batch_size"])

    def state(self) -> Any:
        return read_state(self._run)

    @property
    def _run(self) -> Path:
        (key,) = self._planned()
        return run_folder(self.folder / RECORDS, key)

    def _planned(self) -> list[str]:
        try:
            return [entry.key for entry in read_plan(self.folder / RECORDS, NAME)]
        except (OSError, ValueError):
            return []

    def telemetry_devices(self) -> set[str]:
        parquet: Any = importlib.import_module("pyarrow.parquet")
        path = self._run / schema.ARTIFACT_TELEMETRY
        return set(parquet.read_table(path)["device"].to_pylist()) if path.is_file() else set()

    def foreign_lines(self) -> list[str]:
        """What the command printed that is not ours."""
        lines = self._printed.read_text(errors="replace", encoding="utf-8").splitlines()
        return [line for line in lines if any(word in line.replace(OURS, "").lower() for word in CHATTER)]
