"""What each of a run's records costs alone: telemetry, record, checkpoints, publisher (`deeper bench overhead`).

One process trains run after run with one of them on. Most cost less than the noise of images/s, so images per
CPU-second of the process and the publisher count.
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
from bench.suites.harness.child import child, requests
from bench.suites.harness.comparison import Comparison, Figures, interleave
from bench.suites.overhead.workspace import Place
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
EVERY_S = 300

Training = Callable[["RunConfig", "RankSetup"], None]


def compare(place: Place, repeats: int, console: Console) -> Comparison:
    """Each record against none, in runs of one epoch; its `once` tells what one checkpoint takes."""
    place = _one_epoch(place)
    console.print("each record alone ...", highlight=False)
    with child("costs", _serve, place) as one:
        contestants = {name: one.contestant(name) for name in TRAININGS}
        rounds = interleave(contestants, rounds=repeats, console=console)
        seconds = one.ask((CHECKPOINT_S, repeats))
    return Comparison(
        name="costs",
        title="One process with nothing on, and with each record alone",
        rounds=rounds,
        once={CHECKPOINTS: {CHECKPOINT_S: seconds, CHECKPOINT_SHARE: 100 * seconds / EVERY_S}},
    )


def _one_epoch(place: Place) -> Place:
    recipe = place.experiment.recipe.model_copy(update={"epochs": 1})
    runs = [run.model_copy(update={"config": run.config.model_copy(update={"recipe": recipe})}) for run in place.runs]
    return replace(place, runs=tuple(runs), experiment=place.experiment.model_copy(update={"recipe": recipe}))


# --- the process --------------------------------------------------------------------------------------


def _serve(pipe: Connection, place: Place) -> None:
    write_plan(place.scratch / PUBLISHED, place.experiment.name, place.runs, {})
    publisher = start_publisher(place.scratch / PUBLISHED)
    try:
        for name, index in requests(pipe):
            if name == CHECKPOINT_S:
                pipe.send(_seconds_a_checkpoint(run_folder(place.scratch / NOTHING, place.runs[index].key)))
            else:
                pipe.send(_round(TRAININGS[name], name, index, place, publisher))
    finally:
        stop_publisher(publisher)


def _round(training: Training, name: str, index: int, place: Place, publisher: BackgroundPublisher) -> Figures:
    import torch

    from reproduce.training.interface import RankSetup

    run = place.runs[index].config
    folder = run_folder(place.scratch / name, run.key)
    folder.mkdir(parents=True)
    context = RankSetup(
        rank=0,
        world_size=1,
        device=torch.device("cuda" if torch.cuda.is_available() else "cpu"),
        threads=place.threads,
        folder=folder,
        data_root=place.data,
        stop_requested=lambda: False,
        checkpoint_every_s=math.inf,
    )
    mirroring = psutil.Process(publisher.process.pid)
    wall, cpu = time.perf_counter(), time.process_time() + _cpu_seconds(mirroring)
    training(run, context)
    wall = time.perf_counter() - wall
    while name == PUBLISHED and pending(publisher.records, publisher.uri):
        time.sleep(0.1)
    cpu = time.process_time() + _cpu_seconds(mirroring) - cpu
    return {SPEED: place.images_trained / wall, EFFICIENCY: place.images_trained / cpu}


def _cpu_seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system


def _seconds_a_checkpoint(folder: Path) -> float:
    """To write, durably, the weights of a run and as much again for its optimiser's momentum; median of five."""
    import torch

    from reproduce.training import checkpoint

    content = torch.load(folder / checkpoint.FILE_NAME, weights_only=True)
    content["optimiser"] = {name: tensor.clone() for name, tensor in content["network"].items()}
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        checkpoint.save(folder, content)
        seconds.append(time.perf_counter() - start)
    return median(seconds)


def _nothing(run: RunConfig, context: RankSetup) -> None:
    from reproduce.training.interface import SilentObserver
    from reproduce.training.loop import train

    train(run, context, SilentObserver())


def _telemetry(hz: float, run: RunConfig, context: RankSetup) -> None:
    devices = ["0"] if context.device.type == "cuda" else []
    sampler = Sampler(context.folder, attempt=1, devices=devices, rate_hz=hz).start()
    _nothing(run, context)
    sampler.stop()


def _record(run: RunConfig, context: RankSetup) -> None:
    from reproduce.training.loop import train

    record = Record(context.folder)
    record.begin(run, environment=environment(), world_size=1, device=str(context.device))
    result = train(run, context, record)
    record.end(schema.FINISHED, metrics=result.metrics)


def _checkpoints(run: RunConfig, context: RankSetup) -> None:
    _nothing(run, replace(context, checkpoint_every_s=1))


TRAININGS: dict[str, Training] = {
    NOTHING: _nothing,
    "telemetry, 1 Hz": partial(_telemetry, 1.0),
    "telemetry, 10 Hz": partial(_telemetry, 10.0),
    "record": _record,
    PUBLISHED: _record,
    CHECKPOINTS: _checkpoints,
}
