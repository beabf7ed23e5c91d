"""Plan the runs of an experiment: one for each arm and seed, with everything that determines its result filled in.

Every mistake in the experiment raises `SpecError`. This module imports neither torch nor FFCV, so that planning is
quick.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from reproduce.config import C, validated
from reproduce.errors import SpecError
from reproduce.spec import (
    ArmConfig,
    DataConfig,
    ExperimentConfig,
    NetworkConfig,
    PlannedRun,
    RecipeConfig,
    ResourcesConfig,
    RunConfig,
    Seeds,
)


def plan(
    experiment: ExperimentConfig,
    *,
    data_hashes: Mapping[str, str],
    classes: Mapping[str, int],
    train_images: Mapping[str, int],
) -> list[PlannedRun]:
    """List all runs of an experiment, ordered by seed and then by arm, in the order of the file.

    In this order, an experiment that is stopped has all arms for the first seeds.

    Args:
        experiment: The experiment.
        data_hashes: The hash in each data set's manifest, by `data.path`.
        classes: The number of classes of each data set, by `data.path`.
        train_images: The number of training images of each data set, by `data.path`.

    Returns:
        One run for each arm and seed.

    Raises:
        SpecError: An arm is not valid, or two arms are the same.
    """
    arms = {name: _resolve_arm(experiment, name, arm, classes, train_images) for name, arm in experiment.arms.items()}
    seen: dict[str, str] = {}
    for name, parts in arms.items():
        *keyed, resources = parts
        of_resources = {"workers": resources.workers, "deterministic": resources.deterministic}  # others change no key
        content = json.dumps([*(part.model_dump(mode="json") for part in keyed), of_resources], sort_keys=True)
        if content in seen:
            raise SpecError(f"arms.{name}: is the same as arms.{seen[content]}; change a field in which they differ")
        seen[content] = name
    return [
        PlannedRun(
            experiment=experiment.name,
            arm=name,
            seed=seed,
            config=RunConfig(
                data=data,
                data_hash=data_hashes[data.path],
                network=network,
                recipe=recipe,
                train_images=_where_rounding_differs(train_images[data.path], data.train_fraction),
                seeds=Seeds.of(seed),
                workers=resources.workers,
                deterministic=resources.deterministic,
                probes=experiment.probes,
            ),
            resources=resources,
        )
        for seed in experiment.seeds
        for name, (data, network, recipe, resources) in arms.items()
    ]


def used_images(run: RunConfig, images: int) -> int:
    """Return how many of the `images` training images of its data set a run uses."""
    return run.train_images or int(images * run.data.train_fraction)


def _share(images: int, fraction: float) -> int:
    """Compute a fraction of a number of images, rounded down. The fraction is the decimal number that was written."""
    return int(images * Decimal(repr(fraction)))


def _where_rounding_differs(images: int, fraction: float) -> int | None:
    """Compute the field `RunConfig.train_images`.

    Until 2026-11-27 the product of the number of images and the fraction was rounded down in floating point: 0.29 of
    100 images were 28. Runs of that time mean that number. The field is None where it is right, so that their keys
    stay; elsewhere it holds the right number, and the key is another one.
    """
    used = _share(images, fraction)
    return None if used == int(images * fraction) else used


def arm_data(experiment: ExperimentConfig) -> list[DataConfig]:
    """List the data sets of an experiment's arms, whether or not they are prepared.

    Returns:
        One configuration for each `data.path`: that of the first arm with this path.

    Raises:
        SpecError: The `data` of an arm is not valid.
    """
    paths: dict[str, DataConfig] = {}
    for name, arm in experiment.arms.items():
        data = _merged(experiment.data, arm.data, f"arms.{name}.data.")
        paths.setdefault(data.path, data)
    return list(paths.values())


def _resolve_arm(
    experiment: ExperimentConfig,
    name: str,
    arm: ArmConfig,
    classes: Mapping[str, int],
    train_images: Mapping[str, int],
) -> tuple[DataConfig, NetworkConfig, RecipeConfig, ResourcesConfig]:
    data = _merged(experiment.data, arm.data, f"arms.{name}.data.")
    recipe = _merged(experiment.recipe, arm.recipe, f"arms.{name}.recipe.")
    network = validated(
        NetworkConfig,
        {**experiment.network, **arm.network, "classes": classes[data.path], "resolution": recipe.resolution},
        where=f"arms.{name}.network.",
    )
    resources = _merged(experiment.resources, arm.resources, f"arms.{name}.resources.")
    workers = resources.workers
    if recipe.batch_size % workers:
        raise SpecError(
            f"arms.{name}.recipe.batch_size: {recipe.batch_size} is not divisible by resources.workers {workers}; "
            f"use {recipe.batch_size - recipe.batch_size % workers or workers}"
        )
    images = _share(train_images[data.path], data.train_fraction)
    if images < recipe.batch_size:
        raise SpecError(
            f"arms.{name}.recipe.batch_size: {recipe.batch_size} is more than the {images} training images; "
            f"use at most {images}"
        )
    if network.norm == "batch" and recipe.batch_size // workers < 2:
        raise SpecError(
            f"arms.{name}.recipe.batch_size: {recipe.batch_size} gives 1 image to each worker, "
            f"and batch normalisation needs 2; use at least {2 * workers}"
        )
    return data, network, recipe, resources


def _merged(base: C, changes: Mapping[str, Any], where: str) -> C:
    return validated(type(base), {**base.model_dump(), **changes}, where=where)


def plan_without_data(experiment: ExperimentConfig) -> list[PlannedRun]:
    """Plan the runs of an experiment without its data sets, which are told apart by their paths alone.

    Returns:
        The runs, ordered by seed, then by arm. Their keys differ from those of the real runs, since a key includes the
        hashes of the data sets.

    Raises:
        SpecError: The experiment is inconsistent.
    """
    paths = [data.path for data in arm_data(experiment)]
    return plan(
        experiment,
        data_hashes={path: path for path in paths},
        classes=dict.fromkeys(paths, 1000),
        train_images=dict.fromkeys(paths, 10**9),
    )
