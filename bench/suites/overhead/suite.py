"""`deeper bench overhead`: measures the cost of orchestrating and recording a training.

Measured: images/s of a short run, from the end of its first step to the end of the run, which includes validation,
checkpoints and the end of the record; seconds from the start of a run to the end of its first step; and peak memory.
`records_alone` then measures telemetry, record, publisher and checkpoints one at a time.

Against: the same `train` function on the same data in a plain process, and under torchrun. Neither records anything.
With this project the run is recorded in full: it has Ray actors that stay alive between runs, telemetry at 1 Hz,
events, predictions, and a process beside it that publishes to MLflow.

Interleaved: each repetition trains one run in each of the three ways. The first repetition is dropped.

Not shown: the overhead of a long run, in which start-up is negligible; and that of a run on several machines.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil
from pydantic import Field
from rich.console import Console

from bench.machine.children import end_with_parent
from bench.orchestration.cluster import cluster
from bench.orchestration.worker import Attempt
from bench.orchestration.worker_group import WorkerGroup
from bench.planning.plan import make_plan
from bench.records.plan import write_plan
from bench.records.states import run_folder
from bench.suites.harness.comparison import Comparison, Goal, Measure, Measurement, interleave
from bench.suites.harness.errors import MeasurementError
from bench.suites.harness.memory import MEMORY, peak_memory
from bench.suites.harness.reporting import ResultOutput, progress_console, report_comparisons
from bench.suites.overhead.bare_run import FIRST_STEP, RETURNED, BareRun
from bench.suites.overhead.records_alone import compare_records
from bench.suites.overhead.workspace import Workspace
from bench.tracking.background import start_publisher, stop_publisher
from reproduce import schema
from reproduce.data import synthetic
from reproduce.data.writing import prepare
from reproduce.errors import UserError
from reproduce.limits import usable_cores
from reproduce.spec import Config, ExperimentConfig, PlannedRun, validated

OURS, PLAIN, TORCHRUN = "deeper", "plain process", "torchrun"
SPEED, START = "images/s", "start-up, s"
FIRST_START = "start-up with Ray's start, s"
MIN_SPEED, MAX_START_S = 0.97, 5.0
DATA = "synthetic"
POLL_S = 0.01
FIRST_STEP_TIMEOUT_S = 300.0


class OverheadOptions(Config):
    """Options of `deeper bench overhead`: the run that is measured, and the number of repetitions."""

    repetitions: int = Field(3, ge=1)
    """Repetitions that are kept, beside the first one, which is dropped."""
    workers: int = Field(1, ge=1)
    """Ranks of the run. Each has a GPU on a machine with GPUs; otherwise they share the cores equally."""
    images: int = Field(2048, ge=64)
    """Training images, which are generated. The data set has a quarter of this number as validation images."""
    side: int = Field(48, ge=32)
    """Side of an image, in pixels."""
    batch: int = Field(64, ge=2)
    """Images in a step of all ranks together."""
    costs: bool = True
    """Whether telemetry, record, publisher and checkpoints are also measured one at a time."""


def main(options: OverheadOptions, *, output: ResultOutput) -> int:
    """Compare a recorded run with the same training in bare processes, and print and write the result.

    Starts a Ray cluster on this machine and a publisher, which end before the function returns.

    Args:
        options: The run that is measured, and the number of repetitions.
        output: Where the result goes beside the terminal.

    Returns:
        The exit code: 0 if both goals are reached, 1 otherwise. The goals are 0.97 times the images/s of the plain
        process (of torchrun, if the run has several ranks), and a start-up of 5 s.

    Raises:
        UserError: `options.workers` exceeds the number of GPUs, or of physical cores on a machine without GPUs.
        MeasurementError: A run failed, or its first step did not end within 300 s.
        WorkerProcessError: The worker process of the second comparison ended before it replied.
    """
    console = progress_console()
    with tempfile.TemporaryDirectory(prefix="deeper-overhead-") as scratch:
        workspace = _prepare_workspace(options, Path(scratch))
        comparisons = [_compare_run(workspace, options, console)]
        if options.costs:
            comparisons.append(compare_records(workspace, options.repetitions, console))
    run = workspace.runs[0].config
    setting = {
        **options.model_dump(exclude={"repetitions", "costs"}),
        "network": run.network.model_dump(),
        "epochs": run.recipe.epochs,
        "threads a worker": workspace.threads,
        SPEED: "training images / seconds from the end of the first step to the end of the run",
        START: "seconds from the start of the run to the end of its first step",
        MEMORY: "PSS of anonymous and shared pages of all processes: driver, Ray, publisher, ranks",
    }
    return report_comparisons("overhead", comparisons, setting=setting, output=output)


def quick(console: Console) -> list[Comparison]:
    """Return the comparison of a recorded run with a plain process, measured in two short repetitions.

    Progress is printed to `console`.
    """
    options = OverheadOptions(repetitions=2, images=768)
    with tempfile.TemporaryDirectory(prefix="deeper-overhead-") as scratch:
        workspace = _prepare_workspace(options, Path(scratch))
        return [_compare_run(workspace, options, console, baselines=(PLAIN,))]


def _prepare_workspace(options: OverheadOptions, scratch: Path) -> Workspace:
    import torch

    cores, gpus = usable_cores(), torch.cuda.device_count()
    if options.workers > (gpus or cores):
        raise UserError(f"workers: {options.workers} do not fit on {gpus or cores} {'GPUs' if gpus else 'cores'}")
    source = synthetic(classes=10, images=options.images, size=options.side, seed=0)
    prepare(source, scratch / "data" / DATA)
    experiment = validated(
        ExperimentConfig,
        {
            "name": "overhead",
            "data": {"path": DATA},
            "recipe": {
                "epochs": 2,
                "batch_size": options.batch,
                "learning_rate": 0.01,
                "resolution": options.side,
            },
            "resources": {
                "workers": options.workers,
                "cpus_per_worker": cores // options.workers,
                "gpus_per_worker": int(gpus > 0),
            },
            "arms": {"both": {}},
            # One run for each repetition, one to warm up, and the last for the start of Ray.
            "seeds": list(range(options.repetitions + 2)),
        },
        where="overhead: ",
    )
    return Workspace(scratch, make_plan(experiment, scratch / "data").runs, experiment, options.images)


# --- implementations ---------------------------------------------------------------------------------


def _compare_run(
    workspace: Workspace, options: OverheadOptions, console: Console, baselines: Sequence[str] = (PLAIN, TORCHRUN)
) -> Comparison:
    console.print("starting Ray and the publisher ...", highlight=False)
    once: dict[str, dict[str, float]] = {}
    absent = {PLAIN: "it has one process, and the run has several ranks"} if options.workers > 1 else {}
    with _ours(workspace, once) as ours:
        implementations: dict[str, Measure] = {OURS: ours}
        for name in baselines:
            if name not in absent:
                implementations[name] = _bare(name, workspace, once)
        repetitions = interleave(implementations, repetitions=options.repetitions, console=console)
    baseline = next(name for name in repetitions if name != OURS)
    return Comparison(
        name="run",
        title=f"A run of {options.workers} worker{'s' if options.workers > 1 else ''} by the suite and without it",
        repetitions=repetitions,
        goals=(
            Goal(metric=SPEED, ours=OURS, baseline=baseline, at_least=MIN_SPEED),
            Goal(metric=START, ours=OURS, at_most=MAX_START_S),
        ),
        once=once,
        absent=absent,
    )


@contextlib.contextmanager
def _ours(workspace: Workspace, once: dict[str, dict[str, float]]) -> Iterator[Measure]:
    """Start Ray, a worker group and the publisher, train a first run, and yield the `Measure` of a recorded run.

    The runs that are measured use Ray actors that already exist, like all runs of a command except its first one. All
    processes end when the block is left.

    Args:
        workspace: The prepared data and the runs.
        once: Receives two values in repetition 0: the peak memory of all processes in GiB, and the start-up of the
            first run in seconds, which includes the start of Ray.
    """
    write_plan(workspace.records, workspace.experiment.name, workspace.runs, {})

    def train(group: WorkerGroup, run: PlannedRun, start: float) -> Measurement:
        folder = run_folder(workspace.records, run.key)
        first_step = _FirstStep(folder)
        outcome = group.train(Attempt(run.config, folder, workspace.data))
        end = time.time()
        if outcome.status != schema.FINISHED:
            raise MeasurementError(f"the run under measurement {outcome.status}: {outcome.error}")
        return _measurement(workspace, start, first_step.ended_at(), end)

    start = time.time()
    publisher = start_publisher(workspace.records)
    try:
        with cluster(None, workspace.records / "logs" / "ray.log"):
            group = WorkerGroup.start(workspace.experiment.resources)
            first_run = train(group, workspace.runs[-1], start)

            def measure(index: int) -> Measurement:
                if index:
                    return train(group, workspace.runs[index], time.time())
                with peak_memory(psutil.Process()) as peak_gib:
                    measurement = train(group, workspace.runs[index], time.time())
                once[OURS] = {MEMORY: peak_gib(), FIRST_START: first_run[START]}
                return measurement

            yield measure
            group.kill()
    finally:
        stop_publisher(publisher)


def _bare(name: str, workspace: Workspace, once: dict[str, dict[str, float]]) -> Measure:
    """Return the `Measure` of a run in processes that record nothing.

    Args:
        name: `PLAIN` or `TORCHRUN`.
        workspace: The prepared data and the runs.
        once: Receives the peak memory of all processes in GiB, in repetition 0.
    """
    resources = workspace.experiment.resources
    launcher = [sys.executable]
    if name == TORCHRUN:
        launcher += ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={resources.workers}"]

    def measure(index: int) -> Measurement:
        run = workspace.runs[index]
        folder = workspace.scratch / name.replace(" ", "-") / run.key
        folder.mkdir(parents=True)
        bare = BareRun(
            run=run.config,
            folder=folder,
            data_root=workspace.data,
            threads=resources.cpus_per_worker,
            gpu=resources.gpus_per_worker > 0,
        )
        (folder / "run.json").write_text(bare.model_dump_json(), encoding="utf-8")
        start, first_step = time.time(), _FirstStep(folder)
        command = [*launcher, "-m", "bench.suites.overhead.bare_run", str(folder / "run.json")]
        log = folder / "log.txt"
        with log.open("wb") as file:
            process = subprocess.Popen(command, stdout=file, stderr=file, preexec_fn=end_with_parent)
            if index:
                process.wait()
            else:
                with peak_memory(psutil.Process(process.pid)) as peak_gib:
                    process.wait()
                once[name] = {MEMORY: peak_gib()}
        if process.returncode:
            printed = log.read_text(encoding="utf-8", errors="replace")
            raise MeasurementError(f"{name} ended with exit code {process.returncode}:\n{printed}")
        end = float((folder / RETURNED).read_text(encoding="utf-8"))
        return _measurement(workspace, start, first_step.ended_at(), end)

    return measure


class _FirstStep:
    """Watches the folder of a run, in a thread, for the file that appears when its first step has ended.

    The method is the same for every implementation.
    """

    def __init__(self, folder: Path) -> None:
        self._file = folder / FIRST_STEP
        self._ended_at: float | None = None
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def ended_at(self) -> float:
        """Wait for the end of the first step, and return its time in seconds since the epoch.

        Raises:
            MeasurementError: The first step did not end within `FIRST_STEP_TIMEOUT_S` of the construction.
        """
        self._thread.join()
        if self._ended_at is None:
            raise MeasurementError(f"no first step within {FIRST_STEP_TIMEOUT_S:.0f} s: there is no {self._file}")
        return self._ended_at

    def _watch(self) -> None:
        deadline = time.monotonic() + FIRST_STEP_TIMEOUT_S
        while not self._file.exists():
            if time.monotonic() > deadline:
                return
            time.sleep(POLL_S)
        self._ended_at = time.time()


def _measurement(workspace: Workspace, start: float, first_step_end: float, end: float) -> Measurement:
    """Return the images/s after the first step, and the seconds of start-up, which end with the first step.

    All times are in seconds since the epoch.
    """
    images = workspace.images_trained - workspace.experiment.recipe.batch_size
    return {SPEED: images / (end - first_step_end), START: first_step_end - start}
