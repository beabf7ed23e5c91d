"""Generates records of any size, with the files of real ones, for measuring how they are published and reported.

Nothing is trained. The experiment is called generated in its name, its description, and the commit, host and CPU of
every run, so that nobody takes its numbers for results. The record's own writers write its files.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.records.plan import write_experiment, write_plan
from bench.records.record import Record
from bench.records.states import run_folder
from bench.telemetry.samples import HOST, READINGS, write_samples
from reproduce import schema
from reproduce.spec import ExperimentConfig, NetworkConfig, PlannedRun, RunConfig, Seeds, validated

if TYPE_CHECKING:
    import pyarrow as pa

GENERATED = "generated"
"""What the commit, the host, the CPU and the data of generated runs are called."""
ARMS = {
    "reduced-plain": {"reduction": "reduced", "norm": "none"},
    "reduced-batch": {"reduction": "reduced", "norm": "batch"},
    "unreduced-plain": {"reduction": "unreduced", "norm": "none"},
    "unreduced-batch": {"reduction": "unreduced", "norm": "batch"},
}
IMAGES, CLASSES = 3925, 10
"""Size of the validation set of Imagenette, of which each run holds its predictions."""
SIDE = 64
SAMPLES = 865
"""Telemetry samples of a run, as many as the first committed run on Imagenette has."""
STAGES = ("stem", "3", "4", "5", "head")
WRITERS = 8
"""Runs that are written at a time, since writing mostly waits for the disk."""
ENVIRONMENT: Mapping[str, Any] = {
    "commit": GENERATED,
    "dirty": False,
    "packages": {"deeper": GENERATED},
    "machine": {"hostname": GENERATED, "python": GENERATED, "cpu": f"{GENERATED} records, no machine", "cores": 1},
    "gpus": [],
    "gpu_absent": f"{GENERATED} records: nothing was trained",
}


def generated_experiment(runs: int, epochs: int) -> ExperimentConfig:
    """Return a 2x2 grid of four arms with enough seeds for a number of runs.

    Args:
        runs: Number of runs.
        epochs: Epochs of each run.
    """
    seeds = -(-runs // len(ARMS))
    content = {
        "name": f"{GENERATED}-{runs}x{epochs}",
        "description": f"{GENERATED.capitalize()} records: nothing was trained, and every number is made up.",
        "data": {"path": GENERATED},
        "network": {"aux": "none"},
        "recipe": {"epochs": epochs, "batch_size": 64, "learning_rate": 0.02, "resolution": SIDE},
        "arms": {
            name: {"network": network, "description": f"{GENERATED}: {' and '.join(network.values())}"}
            for name, network in ARMS.items()
        },
        "seeds": list(range(seeds)),
    }
    return validated(ExperimentConfig, content, where=f"{GENERATED}: ")


def planned_runs(experiment: ExperimentConfig, runs: int) -> list[PlannedRun]:
    """Return the first runs of the grid of `generated_experiment`, seed by seed."""
    grid = [(seed, arm) for seed in experiment.seeds for arm in experiment.arms]
    return [
        PlannedRun(
            experiment=experiment.name,
            arm=arm,
            seed=seed,
            config=RunConfig(
                data=experiment.data,
                data_hash=GENERATED,
                network=NetworkConfig(
                    classes=CLASSES, resolution=SIDE, **{**experiment.network, **experiment.arms[arm].network}
                ),
                recipe=experiment.recipe,
                seeds=Seeds.of(seed),
                workers=1,
            ),
        )
        for seed, arm in grid[:runs]
    ]


def write_generated_records(records: Path, runs: int, epochs: int) -> Iterator[int]:
    """Write the plan of an experiment and the finished records of its runs.

    Args:
        records: The folder of the records.
        runs: Number of runs.
        epochs: Epochs of each run.

    Yields:
        The number of runs that are written so far, after each one.
    """
    experiment = generated_experiment(runs, epochs)
    planned = planned_runs(experiment, runs)
    write_experiment(records, experiment)
    write_plan(records, experiment.name, planned, {run.key: _costs(run) for run in planned})
    with ThreadPoolExecutor(WRITERS) as pool:
        for count, _ in enumerate(pool.map(lambda run: _write_run(records, run), planned), start=1):
            yield count


def _write_run(records: Path, run: PlannedRun) -> None:
    random = np.random.default_rng([run.seed, list(ARMS).index(run.arm)])
    folder = run_folder(records, run.key)
    epochs = run.config.recipe.epochs
    with Record(folder) as record:
        record.begin(run.config, environment=ENVIRONMENT, world_size=1, device="cpu")
        metrics = {}
        for epoch in range(epochs):
            metrics = _epoch_metrics(run, epoch / max(1, epochs - 1), random)
            record.epoch(epoch, metrics)
        write_samples(folder, _samples(random))
        record.predictions(_predictions(metrics[schema.VAL_TOP1], random))
        final = {
            schema.FINAL_TOP1: metrics[schema.VAL_TOP1],
            schema.FINAL_TOP5: metrics[schema.VAL_TOP5],
            schema.FINAL_TRAIN_TOP1: metrics[schema.TRAIN_TOP1],
            schema.FINAL_VAL_LOSS: metrics[schema.VAL_LOSS],
            schema.FINAL_IMAGES_PER_S: metrics[schema.IMAGES_PER_S],
            schema.HOST_CPU_PERCENT: 99.0,
            schema.HOST_MEMORY_GIB: 5.0,
        }
        telemetry = {"samples": SAMPLES, "failed_polls": 0, "gpu_absent": schema.NO_GPU_USED}
        record.end(schema.FINISHED, metrics=final, telemetry=telemetry)


def _epoch_metrics(run: PlannedRun, progress: float, random: np.random.Generator) -> dict[str, float]:
    """Return the 21 metrics that an epoch of a real run without auxiliary classifiers has."""
    unreduced, batch = run.config.network.reduction == "unreduced", run.config.network.norm == "batch"
    top1 = (0.62 + 0.05 * unreduced + 0.06 * batch) * (1 - 0.8 * np.exp(-4 * progress)) + random.normal(0, 0.008)
    loss = 2.3 - 1.9 * top1
    speed = (41.0 if unreduced else 72.0) + random.normal(0, 1)
    seconds = 9469 / speed
    return {
        schema.TRAIN_LOSS: loss,
        schema.TRAIN_LOSS_MAIN: loss,
        schema.TRAIN_TOP1: top1 - 0.02,
        schema.TRAIN_TOP5: 0.5 + top1 / 2,
        **{f"{schema.GRADIENT_NORM}{stage}": float(random.lognormal(1 - progress)) for stage in STAGES},
        schema.IMAGES_PER_S: speed,
        schema.COMPUTE_IMAGES_PER_S: speed * 1.002,
        schema.DATA_WAIT_SHARE: 0.002,
        schema.TRAIN_SECONDS: seconds,
        schema.VAL_LOSS: loss + 0.1,
        schema.VAL_TOP1: top1,
        schema.VAL_TOP5: 0.5 + top1 / 2,
        schema.LEARNING_RATE: 0.02 * (1 - progress),
        schema.RESOLUTION: 64.0,
        schema.EPOCH_SECONDS: seconds + 7.5,
        schema.VAL_SECONDS: 7.5,
        schema.PEAK_MEMORY_GIB: 1.6,
    }


def _costs(run: PlannedRun) -> dict[str, float]:
    unreduced = run.config.network.reduction == "unreduced"
    parameters, macs = (24_297_002, 189_045_760) if unreduced else (5_991_082, 69_530_368)
    return {
        schema.COST_PARAMETERS: parameters,
        schema.COST_PARAMETERS_INFERENCE: parameters,
        schema.COST_MACS: macs,
        schema.COST_MACS_TRAINING: macs,
    }


def _predictions(top1: float, random: np.random.Generator) -> dict[str, np.ndarray]:
    label = np.arange(IMAGES) * CLASSES // IMAGES
    correct = random.random(IMAGES) < top1
    first = np.where(correct, label, (label + 1) % CLASSES)
    top5 = (first[:, None] + np.array([0, 2, 3, 4, 5])) % CLASSES
    return {"index": np.arange(IMAGES), "label": label, "top5": top5, "correct": correct}


def _samples(random: np.random.Generator) -> pa.Table:
    import pyarrow as pa

    absent = pa.nulls(SAMPLES, pa.float64())
    columns = {
        "t": np.arange(SAMPLES, dtype=float),
        "attempt": np.ones(SAMPLES, dtype=int),
        "device": [HOST] * SAMPLES,
        **dict.fromkeys(READINGS, absent),
        "cpu_percent": random.uniform(95, 100, SAMPLES),
        "memory_gib": random.uniform(4, 5, SAMPLES),
        "rss_gib": random.uniform(1, 2, SAMPLES),
    }
    return pa.table(columns)
