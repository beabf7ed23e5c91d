"""Turns an experiment and its prepared data into runs, computes their costs, and checks cores and disk space."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

from bench.planning.costs import are_counted, network_costs
from reproduce import schema
from reproduce.data import DataError, Manifest, load_manifest
from reproduce.data.manifest import MANIFEST
from reproduce.grid import arm_data, plan, plan_without_data, used_images
from reproduce.spec import (
    DataConfig,
    ExperimentConfig,
    PlannedRun,
    ResourcesConfig,
    SpecError,
    option_texts,
    prepare_command,
)

CHECKPOINT_COPIES = 3  # weights, momentum, averaged weights
CHECKPOINTS = 2  # the newest and the one before
SPARE_BYTES = 256 * 2**20  # for events, telemetry and the tracking store
GPU_SHARES = ((1.6e6, 0.25), (4e6, 0.5))
"""Pairs of a limit and a share: a step of fewer pixels than the limit needs only that share of a large GPU.

Below the first limit the GPU spends three quarters of the time waiting for kernel launches, below the second limit
half of it. Measured on an H200 on 2026-11-26: a step of 128 images at 96 px (1.2 million pixels) took 27 ms, and 7 ms
in a CUDA graph; a step of 64 images at 224 px (3.2 million pixels) took 24 ms, and 12 ms in a CUDA graph."""


@dataclass(frozen=True)
class Plan:
    """The runs of an experiment, the costs of their networks and the sizes of their data sets."""

    experiment: ExperimentConfig
    runs: tuple[PlannedRun, ...]
    """The runs, ordered by seed and then by arm."""
    costs: dict[str, dict[str, float]]
    """Costs of each run's network, by the run's key and then by `schema.COST_*` name: numbers of parameters and
    multiply-adds of one image's forward pass, each in evaluation and in training."""
    train_images: dict[str, int]
    """Number of training images of each data set, by `data.path`, before `data.train_fraction` applies."""
    val_images: dict[str, int]
    """Number of validation images of each data set, by `data.path`."""

    def training_macs(self, run: PlannedRun) -> float:
        """Multiply-adds of the training of a whole run, without validation.

        A backward pass is counted as two forward passes.
        """
        images = used_images(run.config, self.train_images[run.config.data.path])
        return 3 * self.costs[run.key][schema.COST_MACS_TRAINING] * images * run.config.recipe.epochs

    @property
    def disk_bytes(self) -> int:
        """Estimated disk space of the records of all runs, in bytes.

        It is the size of two checkpoints with weights, momentum and averaged weights for each run, plus `SPARE_BYTES`.
        """
        parameters = sum(self.costs[run.key][schema.COST_PARAMETERS] for run in self.runs)
        return int(4 * CHECKPOINTS * CHECKPOINT_COPIES * parameters) + SPARE_BYTES


def make_plan(experiment: ExperimentConfig, data_root: Path, announce: Callable[[str], None] = lambda _: None) -> Plan:
    """Plan the runs of an experiment.

    Reads only the manifests of the data sets.

    Args:
        experiment: The experiment.
        data_root: The folder of the prepared data sets.
        announce: Is told what takes long, if anything does.

    Returns:
        The plan with one run for each arm and seed.

    Raises:
        SpecError: The experiment contradicts itself or its data, or a data set is damaged or not prepared.
    """
    plan_without_data(experiment)  # names mistakes in the arms before any data set is asked for
    manifests = {}
    for data in arm_data(experiment):
        try:
            manifests[data.path] = load_manifest(data_root / data.path)
        except DataError as error:
            if not (data_root / data.path / MANIFEST).exists():
                raise SpecError(_not_prepared(data, data_root)) from error
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
    for data in dict.fromkeys(run.config.data for run in runs):
        _check_options(data, manifests[data.path])
    networks = dict.fromkeys(run.config.network for run in runs)
    if not are_counted(networks):
        counted = f"{len(networks)} network{'s' if len(networks) > 1 else ''}"
        announce(f"counting the costs of {counted}, once for each version of the code; some seconds ...")
    by_network = {network: network_costs(network) for network in networks}
    costs = {run.key: by_network[run.config.network] for run in runs}
    return Plan(experiment, tuple(runs), costs, train_images, val_images)


def _check_options(data: DataConfig, manifest: Manifest) -> None:
    """Raise `SpecError` if a data set was not prepared with the options that its experiment names."""
    for name, wanted in data.preparing.items():
        found = getattr(manifest.options, name)
        if found != wanted:
            raise SpecError(
                f"data.{name}: {wanted}, but {data.path} was prepared with {found}; prepare it with "
                f"{option_texts({name: wanted})[0]} into another folder and name that in data.path"
            )


def _not_prepared(data: DataConfig, data_root: Path) -> str:
    missing = f"data.path: {data.path} is not prepared in {data_root}"
    typed, root = Path(data.path).resolve(), data_root.resolve()
    if (typed / MANIFEST).exists() and typed.is_relative_to(root):
        return f"{missing}; paths begin in that folder: write {typed.relative_to(root)}"
    if data.source in (None, "folder"):
        hint = "prepare it from a folder or a tar of images, or from ImageNet's archives (imagenet:FOLDER), such as"
        source = "/path/to/images"
    else:
        source, hint = str(data.source), "prepare it with"
    return f"{missing}; {hint}: {prepare_command(source, str(data_root / data.path), data.preparing)}"


def proposed_gpu_share(plan: Plan) -> float | None:
    """Propose a share of a GPU on which each run would be about as fast as on a whole GPU.

    The proposal depends on batch size and resolution of the run with the largest steps.

    Returns:
        The share, 0.25 or 0.5. None if the runs do not have one worker with one whole GPU each, or if a step is large
        enough to keep a large GPU busy.
    """
    if any(run.resources.gpus_per_worker != 1 or run.resources.workers > 1 for run in plan.runs):
        return None
    pixels = max(run.config.recipe.batch_size * run.config.recipe.resolution**2 for run in plan.runs)
    return next((share for limit, share in GPU_SHARES if pixels < limit), None)


def check_disk(records: Path, needed: int) -> None:
    """Check that the disk of the records has enough free space. Nothing is written.

    Args:
        records: The folder of the records, which need not exist.
        needed: Required free space, in bytes.

    Raises:
        SpecError: Less is free.
    """
    there = records.absolute()
    while not there.exists():
        there = there.parent
    free = shutil.disk_usage(there).free
    if free < needed:
        raise SpecError(
            f"--records: {records}: {needed / 2**30:.1f} GiB are needed and {free / 2**30:.1f} GiB are free; "
            "make room or name another disk"
        )


def check_cores(resources: ResourcesConfig, cpus: int) -> None:
    """Check that a run fits on this machine as far as its CPU cores go.

    Args:
        resources: The resources of a run.
        cpus: The logical CPUs that this process may use.

    Raises:
        SpecError: The workers of a run need more.
    """
    needed = resources.workers * resources.cpus_per_worker
    if needed > cpus:
        raise SpecError(
            f"resources: a run with workers: {resources.workers} and cpus_per_worker: {resources.cpus_per_worker} "
            f"needs {needed} CPUs, and this process may use {cpus}; lower one of them, or name a Ray cluster with "
            "--address"
        )


class NamedRun(Protocol):
    """Anything with an arm and a seed: a run planned now (`PlannedRun`) or one read from `plan.json` (`PlanEntry`)."""

    @property
    def arm(self) -> str: ...

    @property
    def seed(self) -> int: ...


R = TypeVar("R", bound=NamedRun)


def select(runs: Sequence[R], arms: Sequence[str], seeds: Sequence[int]) -> list[R]:
    """Select the runs of the given arms and seeds, in the order of `runs`.

    Args:
        runs: The runs of an experiment.
        arms: Names of arms. If empty, runs of all arms are selected.
        seeds: Seeds. If empty, runs of all seeds are selected.

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
    """Reorder runs so that one driver starts with its own part of them and then continues with the next parts.

    Drivers that start with different parts rarely compete for a run, and take over each other's remaining runs at the
    end. Part i consists of every `count`-th run, beginning with the i-th.

    Args:
        runs: The runs of all drivers, in the same order on each driver.
        index: Number of the part to start with, from 1.
        count: Number of parts.

    Returns:
        All runs: those of part `index` first, then those of the following parts in a circle.
    """
    return [run for shift in range(count) for run in runs[(index - 1 + shift) % count :: count]]
