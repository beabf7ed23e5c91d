"""Turns an experiment and the prepared data into runs, says what each costs, and checks that there is disk space."""

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
GPU_SHARES = ((1.6e6, 0.25), (4e6, 0.5))
"""Pairs of a number of pixels and the share of a large GPU that suffices for steps of fewer pixels.

Below the two limits the GPU spends three quarters or half of the time waiting for kernel launches. Measured on an H200
on 2026-11-26: a step of 128 images at 96 px (1.2 million pixels) took 27 ms, and 7 ms in a CUDA graph; a step of 64
images at 224 px (3.2 million pixels) took 24 ms, and 12 ms in a CUDA graph."""


@dataclass(frozen=True)
class Plan:
    """The runs of an experiment, with what they cost."""

    experiment: ExperimentConfig
    runs: tuple[PlannedRun, ...]
    costs: dict[str, dict[str, float]]
    """By run key: parameters of the run's network and its multiply-adds for one image, by `schema.COST_*` name."""
    train_images: dict[str, int]
    """By `data.path`: the training images of the data set, before `data.train_fraction` applies."""
    val_images: dict[str, int]
    """By `data.path`: the validation images of the data set."""

    def training_macs(self, run: PlannedRun) -> float:
        """Multiply-adds of a whole run, where a backward pass counts as two forward passes."""
        images = self.train_images[run.config.data.path] * run.config.data.train_fraction
        return 3 * self.costs[run.key][schema.COST_MACS_TRAINING] * images * run.config.recipe.epochs

    @property
    def disk_bytes(self) -> int:
        """The most that the records of all runs take, in bytes."""
        parameters = sum(self.costs[run.key][schema.COST_PARAMETERS] for run in self.runs)
        return int(4 * CHECKPOINT_COPIES * parameters) + SPARE_BYTES


def make_plan(experiment: ExperimentConfig, data_root: Path) -> Plan:
    """Plan the runs of an experiment.

    Args:
        experiment: What to run.
        data_root: The folder of the prepared data sets.

    Raises:
        SpecError: The experiment contradicts itself or its data, or a data set is damaged or not prepared.
    """
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


def proposed_gpu_share(experiment: ExperimentConfig) -> float | None:
    """The share of a GPU, between 0 and 1, on which each run would be about as fast as on a whole one.

    None if the experiment does not ask for one whole GPU a run, or if its steps keep a large GPU busy.
    """
    resources = experiment.resources
    if resources.gpus_per_worker != 1 or resources.workers > 1:
        return None
    pixels = experiment.recipe.batch_size * experiment.recipe.resolution**2
    return next((share for limit, share in GPU_SHARES if pixels < limit), None)


def check_disk(records: Path, needed: int) -> None:
    """Create the folder of the records, and raise `SpecError` if its disk has fewer than `needed` free bytes."""
    records.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(records).free
    if free < needed:
        raise SpecError(
            f"--records: {records}: {needed / 2**30:.1f} GiB are needed and {free / 2**30:.1f} GiB are free; "
            "make room or name another disk"
        )


class NamedRun(Protocol):
    """A run of a plan, whether it was planned just now or is read from a record."""

    @property
    def arm(self) -> str: ...

    @property
    def seed(self) -> int: ...


R = TypeVar("R", bound=NamedRun)


def select(runs: Sequence[R], arms: Sequence[str], seeds: Sequence[int]) -> list[R]:
    """The runs of the named arms and seeds.

    Args:
        runs: The runs of an experiment.
        arms: Names of arms; all if empty.
        seeds: Seeds; all if empty.

    Raises:
        SpecError: The experiment has no such arm or seed.
    """
    for option, wanted, known in (
        ("--arm", arms, sorted({run.arm for run in runs})),
        ("--seed", seeds, sorted({run.seed for run in runs})),
    ):
        for value in wanted:
            if value not in known:
                raise SpecError(f"{option}: {value!r} is not in this experiment; it has {', '.join(map(str, known))}")
    return [run for run in runs if (not arms or run.arm in arms) and (not seeds or run.seed in seeds)]


def start_with_part(runs: Sequence[PlannedRun], index: int, count: int) -> list[PlannedRun]:
    """All runs in another order: part `index`, counted from 1, of `count` about equal parts first, then the next parts.

    Drivers that each start with a part of their own rarely compete for a run, and help one another at the end.
    """
    return [run for shift in range(count) for run in runs[(index - 1 + shift) % count :: count]]


def _costs(network: NetworkConfig) -> dict[str, float]:
    inference, training = cost(network, training=False), cost(network, training=True)
    return {
        schema.COST_PARAMETERS: training.parameters,
        schema.COST_PARAMETERS_INFERENCE: inference.parameters,
        schema.COST_MACS: inference.macs,
        schema.COST_MACS_TRAINING: training.macs,
    }
