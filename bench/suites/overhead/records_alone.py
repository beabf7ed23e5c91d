"""Measures separately what telemetry, the record, the publisher and checkpoints cost a run.

This is the second comparison of `deeper bench overhead`. One worker process trains the same run repeatedly, each time
with one of them switched on. Most of them cost less than the noise of images/s. Images per CPU-second, of the process
and the publisher together, are therefore measured as well, because they vary less.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import psutil
from rich.console import Console

from bench.machine.environment import environment
from bench.records.plan import write_plan
from bench.records.record import Record
from bench.records.states import run_folder
from bench.suites.harness.comparison import Comparison, Measurement, interleave
from bench.suites.harness.errors import MeasurementError
from bench.suites.harness.worker_process import received_requests, worker_process
from bench.suites.overhead.workspace import Workspace
from bench.telemetry import Sampler
from bench.tracking.background import BackgroundPublisher, start_publisher, stop_publisher
from bench.tracking.reader import pending
from reproduce import schema

if TYPE_CHECKING:
    from reproduce.spec import RunConfig
    from reproduce.training.interface import RankSetup

SPEED, EFFICIENCY = "images/s", "images per CPU-second"
NOTHING, CHECKPOINTS, PUBLISHED = "nothing on", "a checkpoint each second", "record and publisher"
CHECKPOINT_S, CHECKPOINT_SHARE = "seconds a checkpoint", "% of a run with one in 300 s"
CHECKPOINT_INTERVAL_S = 300
PUBLISH_TIMEOUT_S = 300.0

Training = Callable[["RunConfig", "RankSetup"], None]
"""Trains a run in this process with one of telemetry, record, publisher and checkpoints switched on, or none."""


def compare_records(workspace: Workspace, repetitions: int, console: Console) -> Comparison:
    """Compare a run that records nothing with the same run with one of the entries of `TRAININGS` at a time.

    Each run is shortened to one epoch and trained in a worker process.

    Args:
        workspace: The prepared data, and at least `repetitions + 1` runs.
        repetitions: Number of repetitions that are kept.
        console: Where progress is printed.

    Returns:
        A comparison without goals, with images/s and images per CPU-second. Its field `once` holds the seconds that one
        checkpoint takes, and the share of a run, in percent, that checkpoints take with one in 300 s.

    Raises:
        WorkerProcessError: The worker process ended, for example because the publisher took longer than 300 s.
    """
    workspace = _with_one_epoch(workspace)
    console.print("each record alone ...", highlight=False)
    with worker_process("costs", _serve, workspace) as worker:
        implementations = {name: worker.measure(name) for name in TRAININGS}
        measured = interleave(implementations, repetitions=repetitions, console=console)
        seconds = worker.request((CHECKPOINT_S, repetitions))
    share = 100 * seconds / CHECKPOINT_INTERVAL_S
    return Comparison(
        name="costs",
        title="One process with nothing on, and with each record alone",
        repetitions=measured,
        once={CHECKPOINTS: {CHECKPOINT_S: seconds, CHECKPOINT_SHARE: share}},
    )


def _with_one_epoch(workspace: Workspace) -> Workspace:
    """Return a copy of a workspace whose experiment and runs have one epoch. The runs have other keys than before."""
    recipe = workspace.experiment.recipe.model_copy(update={"epochs": 1})
    runs = [
        run.model_copy(update={"config": run.config.model_copy(update={"recipe": recipe})}) for run in workspace.runs
    ]
    experiment = workspace.experiment.model_copy(update={"recipe": recipe})
    return replace(workspace, runs=tuple(runs), experiment=experiment)


# --- in the worker process ----------------------------------------------------------------------------


def _serve(pipe: Connection, workspace: Workspace) -> None:
    """Reply to requests, in the worker process.

    The reply to `(name in TRAININGS, index of the run)` is a measurement. The reply to `(CHECKPOINT_S, index)` is the
    seconds that a checkpoint takes; it needs the checkpoint that the run `NOTHING` with this index has left.
    """
    write_plan(workspace.scratch / PUBLISHED, workspace.experiment.name, workspace.runs, {})
    publisher = start_publisher(workspace.scratch / PUBLISHED)
    try:
        for name, index in received_requests(pipe):
            if name == CHECKPOINT_S:
                pipe.send(_checkpoint_seconds(run_folder(workspace.scratch / NOTHING, workspace.runs[index].key)))
            else:
                pipe.send(_measure_training(name, index, workspace, publisher))
    finally:
        stop_publisher(publisher)


def _measure_training(name: str, index: int, workspace: Workspace, publisher: BackgroundPublisher) -> Measurement:
    import torch

    from reproduce.training.interface import RankSetup

    run = workspace.runs[index].config
    folder = run_folder(workspace.scratch / name, run.key)
    folder.mkdir(parents=True)
    context = RankSetup(
        rank=0,
        world_size=1,
        device=torch.device("cuda" if torch.cuda.is_available() else "cpu"),
        threads=workspace.threads,
        folder=folder,
        data_root=workspace.data,
        stop_requested=lambda: False,
        checkpoint_every_s=math.inf,
    )
    publishing = psutil.Process(publisher.process.pid)
    wall, cpu = time.perf_counter(), time.process_time() + _cpu_seconds(publishing)
    TRAININGS[name](run, context)
    wall = time.perf_counter() - wall
    if name == PUBLISHED:
        _await_publisher(publisher)
    cpu = time.process_time() + _cpu_seconds(publishing) - cpu
    return {SPEED: workspace.images_trained / wall, EFFICIENCY: workspace.images_trained / cpu}


def _await_publisher(publisher: BackgroundPublisher) -> None:
    """Wait until the run is in the tracking store, so that the CPU time of publishing it is measured."""
    deadline = time.monotonic() + PUBLISH_TIMEOUT_S
    while pending(publisher.records, publisher.uri):
        if time.monotonic() > deadline:
            raise MeasurementError(f"the publisher did not publish a run within {PUBLISH_TIMEOUT_S:.0f} s")
        time.sleep(0.1)


def _cpu_seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system


def _checkpoint_seconds(folder: Path) -> float:
    """Write a checkpoint five times, and return the median seconds.

    Args:
        folder: The folder of a finished run. Its checkpoint gives the weights, and copies of them serve as the state of
            the optimiser, so that the size is that of a checkpoint during training. The file is replaced.
    """
    import torch

    from reproduce.training import checkpoint

    content = torch.load(folder / checkpoint.FILE_NAME, weights_only=True)
    content["optimiser"] = {
        name: tensor.clone() for name, tensor in (content["averaged"] or content)["network"].items()
    }
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        checkpoint.save(folder, content)
        seconds.append(time.perf_counter() - start)
    return median(seconds)


def _nothing(run: RunConfig, setup: RankSetup) -> None:
    from reproduce.training.interface import SilentObserver
    from reproduce.training.loop import train

    train(run, setup, SilentObserver())


def _telemetry(hz: float, run: RunConfig, setup: RankSetup) -> None:
    devices = ["0"] if setup.device.type == "cuda" else []
    sampler = Sampler(setup.folder, attempt=1, devices=devices, rate_hz=hz).start()
    _nothing(run, setup)
    sampler.stop()


def _record(run: RunConfig, setup: RankSetup) -> None:
    from reproduce.training.loop import train

    record = Record(setup.folder)
    record.begin(run, environment=environment(), world_size=1, device=str(setup.device))
    result = train(run, setup, record)
    record.end(schema.FINISHED, metrics=result.metrics)


def _checkpoints(run: RunConfig, setup: RankSetup) -> None:
    _nothing(run, replace(setup, checkpoint_every_s=1))


TRAININGS: dict[str, Training] = {
    NOTHING: _nothing,
    "telemetry, 1 Hz": partial(_telemetry, 1.0),
    "telemetry, 10 Hz": partial(_telemetry, 10.0),
    "record": _record,
    PUBLISHED: _record,
    CHECKPOINTS: _checkpoints,
}
"""The function that trains a run, by the name of the implementation in this comparison."""
