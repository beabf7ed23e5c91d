"""`deeper bench overhead`: the suite against the same step in a bare loop.

Suite: a Ray actor, the training loop with its sums, gradient norms and checkpoints, telemetry at 1 Hz, records and
the publisher's files. Bare: a plain process that takes batches from the same FFCV loader and calls the same step.
Both report training images over training seconds of one epoch after the pipelines are compiled; validation and the
epoch's checkpoint come after that clock in the suite and do not exist in the bare loop.
"""

from __future__ import annotations

import multiprocessing
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path

import psutil
from rich.console import Console

from bench import orchestrator
from bench.planning import make_plan
from bench.states import read_events, run_folder
from bench.suites.rounds import Comparison, Figures, Goal, interleave, publish
from reproduce import schema
from reproduce.data import PrepareOptions, prepare, synthetic
from reproduce.spec import ExperimentConfig, RunConfig, validated

GOAL = 0.95
SPEED = "images/s"
IMAGES, SIDE, BATCH = 6400, 64, 64


def main(*, rounds: int, output: Path | None) -> int:
    """Run the benchmark and print its table; 0 where the goal is reached, else 1."""
    threads = psutil.cpu_count(logical=False) or 1
    console = Console()
    with tempfile.TemporaryDirectory(prefix="deeper-overhead-") as scratch:
        data, records = Path(scratch) / "data", Path(scratch) / "records"
        source = synthetic(classes=10, images=IMAGES, size=SIDE, seed=0)
        prepare(source, data / "synthetic", options=PrepareOptions(), progress=lambda *_: None)
        experiment = validated(
            ExperimentConfig,
            {
                "name": "overhead",
                "data": {"path": "synthetic"},
                "recipe": {"epochs": 1, "batch_size": BATCH, "learning_rate": 0.01, "resolution": SIDE},
                "resources": {"workers": 1, "cpus_per_worker": threads},
                "arms": {"both": {}},
                "seeds": list(range(rounds + 1)),
            },
            where="overhead: ",
        )
        runs = make_plan(experiment, data).runs
        options = orchestrator.Options(records=records, data=data)
        ours, theirs = multiprocessing.get_context("spawn").Pipe()
        bare = multiprocessing.get_context("spawn").Process(
            target=_bare_loop, args=(theirs, runs[0].config, data / "synthetic", threads), daemon=True
        )
        bare.start()
        with orchestrator.cluster(options):
            gang = orchestrator.Gang(experiment.resources)

            def suite(index: int) -> Figures:
                run = runs[index]
                folder = run_folder(records, run.key)
                verdict = gang.train(run, folder, options, give_up=lambda: False)
                if verdict.outcome != schema.FINISHED:
                    raise RuntimeError(f"the run under measurement {verdict.outcome}: {verdict.error}")
                (epoch,) = (event for event in read_events(folder) if event["kind"] == schema.EPOCH)
                return {SPEED: epoch["metrics"][schema.IMAGES_PER_S]}

            def loop(index: int) -> Figures:
                ours.send(index)
                return {SPEED: ours.recv()}

            speeds = interleave({"suite": suite, "bare loop": loop}, rounds=rounds, console=console)
            gang.kill()
        bare.terminate()
    setting = {"network": runs[0].config.network.model_dump(), "batch": BATCH, "images": IMAGES, "threads": threads}
    comparison = Comparison(
        name="suite",
        title="The suite against a bare loop",
        rounds=speeds,
        goals=(Goal(figure=SPEED, ours="suite", peer="bare loop", at_least=GOAL),),
    )
    return publish("overhead", [comparison], setting=setting, output=output)


def _bare_loop(requests: Connection, config: RunConfig, folder: Path, threads: int) -> None:
    import torch

    from reproduce.data import TrainLoader
    from reproduce.training.step import build_step

    torch.set_num_threads(threads)
    recipe = config.recipe
    loader = TrainLoader(
        folder,
        batch_size=recipe.batch_size,
        seed_order=0,
        seed_augmentation=0,
        rank=0,
        world_size=1,
        crop_scale=recipe.crop_scale,
        crop_ratio=recipe.crop_ratio,
        flip=recipe.flip,
        train_fraction=1.0,
        threads=threads,
        device=torch.device("cpu"),
    )
    step = build_step(config, device=torch.device("cpu"))
    while True:
        epoch = requests.recv()
        start = time.perf_counter()
        for images, labels in loader.epoch(epoch, recipe.resolution):
            step(images, labels, recipe.learning_rate)
        requests.send(loader.steps * recipe.batch_size / (time.perf_counter() - start))
