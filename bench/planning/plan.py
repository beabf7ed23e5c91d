"""From an experiment and the prepared data to the runs, what each costs, and whether they can start at all."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

from reproduce import schema
from reproduce.data import DataError, load_manifest
from reproduce.grid import arm_data, plan
from reproduce.models.cost import cost
from reproduce.spec import ExperimentConfig, NetworkConfig, PlannedRun, SpecError

CHECKPOINT_COPIES = 3  # weights, momentum, averaged weights
SPARE_BYTES = 256 * 2**20  # events, telemetry, the tracking store
IDLE_BELOW_PIXELS = ((1.6e6, 0.25), (4e6, 0.5))
"""Pixels of a step below which a large GPU waits for kernels to be launched three quarters of the time, or half of it,
and the share of it that a run is proposed. One H200, 2026-11-26: a batch of 128 at 96 px (1.2 million pixels) took 27
ms and needed 7 in a CUDA graph; of 64 at 224 px (3.2 million) 24 ms and 12."""


@dataclass(frozen=True)
class Plan:
    """The runs of an experiment with their costs by run key (`schema.COST_*` names)."""

    experiment: ExperimentConfig
    runs: tuple[PlannedRun, ...]
    costs: dict[str, dict[str, float]]
    train_images: dict[str, int]
    """Of each `data.path`, all of them."""
    val_images: dict[str, int]

    def training_macs(self, run: PlannedRun) -> float:
        """Multiply-adds of a whole run: a backward pass counts as two forward passes."""
        images = self.train_images[run.config.data.path] * run.config.data.train_fraction
        return 3 * self.costs[run.key][schema.COST_MACS_TRAINING] * images * run.config.recipe.epochs

    @property
    def disk_bytes(self) -> int:
        """What the records need at most."""
        parameters = sum(self.costs[run.key][schema.COST_PARAMETERS] for run in self.runs)
        return int(4 * CHECKPOINT_COPIES * parameters) + SPARE_BYTES


def make_plan(experiment: ExperimentConfig, data_root: Path) -> Plan:
    """Raises `SpecError`, also where a data set is not prepared or damaged."""
    manifests = {}
    for data in arm_data(experiment):
        try:
            manifests[data.path] = load_manifest(data_root / data.path)
        except DataError as error:
            raise SpecError(f"data.path: {data.path}: {error}") from error
    train_images, val_images = (
        {path: manifest.splits[split].images for path, manifest in manifests.items()} for split in ("train", "val")
    )
    runs = plan(
        experiment,
        data_hashes={path: manifest.hash for path, manifest in manifests.items()},
        classes={path: len(manifest.classes) for path, manifest in manifests.items()},
        train_images=train_images,
    )
    networks = {run.config.network for run in runs}
    by_network = {network: _costs(network) for network in networks}
    costs = {run.key: by_network[run.config.network] for run in runs}
    return Plan(experiment, tuple(runs), costs, train_images, val_images)


def proposed_share(experiment: ExperimentConfig) -> float | None:
    """The share of a GPU that the runs of an experiment would use as well as a whole one; None where that is right."""
    resources = experiment.resources
    if resources.gpus_per_worker != 1 or resources.workers > 1:
        return None
    pixels = experiment.recipe.batch_size * experiment.recipe.resolution**2
    return next((share for below, share in IDLE_BELOW_PIXELS if pixels < below), None)


def check_disk(records: Path, needed: int) -> None:
    """Raises `SpecError` where the records would not fit."""
    records.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(records).free
    if free < needed:
        raise SpecError(
            f"--records: {records}: {needed / 2**30:.1f} GiB are needed and {free / 2**30:.1f} GiB are free; "
            "make room or name another disk"
        )


class Named(Protocol):
    """A run of a plan, planned just now or recorded."""

    @property
    def arm(self) -> str: ...

    @property
    def seed(self) -> int: ...


R = TypeVar("R", bound=Named)


def select(runs: Sequence[R], arms: Sequence[str], seeds: Sequence[int]) -> list[R]:
    """The runs of the named arms and seeds; all where none is named. Raises `SpecError` for a name that is none."""
    for option, asked, known in (
        ("--arm", arms, sorted({run.arm for run in runs})),
        ("--seed", seeds, sorted({run.seed for run in runs})),
    ):
        for value in asked:
            if value not in known:
                raise SpecError(f"{option}: {value!r} is not in this experiment; it has {', '.join(map(str, known))}")
    return [run for run in runs if (not arms or run.arm in arms) and (not seeds or run.seed in seeds)]


def part(runs: Sequence[PlannedRun], index: int, count: int) -> list[PlannedRun]:
    """The runs, those of part `index` (from 1) of `count` first and then the other parts' in turn."""
    return [run for shift in range(count) for run in runs[(index - 1 + shift) % count :: count]]


def _costs(network: NetworkConfig) -> dict[str, float]:
    inference, training = cost(network, training=False), cost(network, training=True)
    return {
        schema.COST_PARAMETERS: training.parameters,
        schema.COST_PARAMETERS_INFERENCE: inference.parameters,
        schema.COST_MACS: inference.macs,
        schema.COST_MACS_TRAINING: training.macs,
    }
