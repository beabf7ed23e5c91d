"""Checks the main job as a user runs it, on generated images: run, stop, continue, telemetry and report."""

from __future__ import annotations

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
from bench.machine.children import end_with_parent
from bench.machine.revision import ROOT
from bench.records.plan import read_plan
from bench.records.states import read_state, run_folder
from bench.suites.gpu.probe import ProbeContext, Reporter, Value
from bench.suites.harness.errors import MeasurementError
from bench.telemetry.samples import HOST
from reproduce import schema
from reproduce.data import synthetic
from reproduce.spec import ExperimentConfig, validated

NAME, DATA, RECORDS = "main-job", "gratings", "records"
STOP_S = 15.0  # how long a stopped command may take beyond one step
FOREIGN_WORDS = ("ray", "gcs", "traceback", "warning", "error")
OUR_PHRASE = "starting Ray"  # has a foreign word, and is ours
SECONDS, CODE = "s", "exit code"


def main_job(context: ProbeContext, reporter: Reporter) -> None:
    """Train one run, stop it with SIGTERM after its first step, continue it to its end, and make its report.

    Checks the exit codes, the records, the telemetry and the output of the commands, and reports their durations.
    Without MLflow the run is not published and no report is made. Each `deeper run` starts a Ray cluster of its own.
    """
    job = MainJob(context.scratch)
    gpu = context.device.type == "cuda"
    reporter.progress("preparing images")
    job.prepare(gpu=gpu, cpus=context.threads)
    rows: dict[str, dict[str, Value]] = {}

    def add_row(what: str, seconds: float, code: int | None = None) -> None:
        rows[what] = {SECONDS: seconds, CODE: None if code is None else str(code)}
        reporter.table("the main job", rows)

    reporter.progress("deeper run")
    start = time.monotonic()
    driver = job.start_run()
    step_s = job.await_first_step(driver)
    add_row("deeper run, to its first step", time.monotonic() - start)
    reporter.progress("SIGTERM")
    start = time.monotonic()
    driver.send_signal(signal.SIGTERM)
    code = driver.wait()
    add_row("SIGTERM, to its end", time.monotonic() - start, code)
    reporter.check_true("terminated: exit code 75", code == INTERRUPTED)
    reporter.check("terminated: s to its end", time.monotonic() - start, at_most=round(STOP_S + step_s, 1))
    reporter.check_true("terminated: the run is interrupted, with a checkpoint", job.state().status == "interrupted")

    reporter.progress("continuing")
    start = time.monotonic()
    code = job.start_run().wait()
    add_row("deeper run again, to its end", time.monotonic() - start, code)
    state = job.state()
    reporter.check_true("continued: exit code 0, finished", (code, state.status) == (DONE, "finished"))
    reporter.check("continued: attempts", state.attempt, at_least=2, at_most=2)
    foreign = job.foreign_lines()
    reporter.check("lines of Ray's and errors on the terminal", len(foreign), at_most=0)
    for line in foreign[:3]:
        reporter.note(f"on the terminal: {line[:200]}")

    devices = job.telemetry_devices()
    reporter.check_true("telemetry has rows of the host", HOST in devices)
    if gpu:
        reporter.check_true("telemetry has rows of a GPU", any(device.startswith("GPU-") for device in devices))
        reporter.check_true("the run has GPU metrics", schema.GPU_BUSY_PERCENT in state.metrics)
    if not job.publishes:
        reporter.note("no report: MLflow is not installed")
        return
    reporter.progress("deeper report")
    start = time.monotonic()
    code = job.start_command("report", NAME).wait()
    add_row("deeper report", time.monotonic() - start, code)
    page = context.scratch / "reports" / NAME / "index.html"
    reporter.check_true("the report is made", code == DONE and page.is_file())


@dataclass(frozen=True)
class MainJob:
    """An experiment with a single run, and the commands of `deeper` on it, in a folder of its own."""

    folder: Path
    """An existing folder that receives data, experiment, records, reports and the output of the commands."""

    @property
    def publishes(self) -> bool:
        """Whether the run is published, which needs MLflow to be installed."""
        return find_spec("mlflow") is not None

    @property
    def _printed(self) -> Path:
        return self.folder / "printed.txt"

    def prepare(self, *, gpu: bool, cpus: int) -> None:
        """Generate images, and write an experiment with one run, which takes about ten seconds.

        Args:
            gpu: Whether the run uses a GPU.
            cpus: CPU cores that a run on a GPU may use, of which it takes at most four. A run on CPUs takes one core.
        """
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

    def start_command(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Start `deeper` from this source tree, without waiting for its end.

        It works in `folder` with the environment of this process, except that records, data and tracking store are at
        their default places: `DEEPER_RECORDS`, `DEEPER_DATA` and `MLFLOW_TRACKING_URI` are removed. Its standard output
        and standard error are appended to `printed.txt` in `folder`.

        Args:
            *arguments: The arguments of `deeper`, for example "report" and the name of an experiment.

        Returns:
            The process, for whose end the caller has to wait.
        """
        environment = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), environment.get("PYTHONPATH")]))
        for name in ("DEEPER_RECORDS", "DEEPER_DATA"):
            environment.pop(name, None)
        with self._printed.open("ab") as printed:
            command = [sys.executable, "-m", "bench.cli", *arguments]
            return subprocess.Popen(
                command,
                cwd=self.folder,
                env=environment,
                stdout=printed,
                stderr=printed,
                preexec_fn=end_with_parent,
            )

    def start_run(self) -> subprocess.Popen[bytes]:
        """Start `deeper run` on the experiment, which also continues a run that was stopped. Does not wait."""
        options: Sequence[str] = () if self.publishes else ("--no-publish",)
        return self.start_command("run", f"{NAME}.yaml", "--heartbeat-s", "0.5", *options)

    def await_first_step(self, driver: subprocess.Popen[bytes]) -> float:
        """Wait until the records of the run show its first step. The wait has no time limit of its own.

        Args:
            driver: The process of `deeper run`.

        Returns:
            Seconds that a step takes, computed from the recorded images/s.

        Raises:
            MeasurementError: The command ended before its first step.
        """
        while not self._planned() or not (progress := self.state().progress):
            if driver.poll() is not None:
                last = self._printed.read_text(errors="replace", encoding="utf-8").strip().splitlines()[-1:]
                raise MeasurementError(
                    f"deeper run ended with exit code {driver.returncode} before its first step: {last}"
                )
            time.sleep(0.1)
        return float(self._batch / progress["images_per_s"])

    @property
    def _batch(self) -> int:
        return int(yaml.safe_load((self.folder / f"{NAME}.yaml").read_text(encoding="utf-8"))["recipe"]["batch_size"])

    def state(self) -> Any:
        """Return the `RunState` of the run, read from its record. `deeper run` must have written the plan before."""
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
        """Return the devices that the telemetry of the run has rows for: `HOST` and UUIDs of GPUs.

        The set is empty if the run has no telemetry.
        """
        from pyarrow import parquet

        path = self._run / schema.ARTIFACT_TELEMETRY
        return set(parquet.read_table(path)["device"].to_pylist()) if path.is_file() else set()

    def foreign_lines(self) -> list[str]:
        """Return the lines in the output of all commands so far that seem to come from Ray, an error or a warning."""
        lines = self._printed.read_text(errors="replace", encoding="utf-8").splitlines()
        return [line for line in lines if any(word in line.replace(OUR_PHRASE, "").lower() for word in FOREIGN_WORDS)]
