"""Build the training and validation loaders of a run for one rank."""

from __future__ import annotations

import torch

from reproduce.data.loading.loaders import TrainLoader, TrainLoaderConfig, ValLoader, ValLoaderConfig
from reproduce.data.manifest import Split
from reproduce.execution.precision import resolve_precision
from reproduce.spec import RunConfig
from reproduce.training.interface import RankSetup

VAL_BATCH_PIXELS = 2**18
"""Pixels of a validation batch on a CPU, if a training batch has fewer. At 32 pixels, 256 images at once take 0.73 to
0.78 of the time of eight times 32 (one core with AVX2); at 224 pixels, larger batches only need more memory."""


def build_train_loader(run: RunConfig, setup: RankSetup) -> TrainLoader:
    """Build the loader of this rank's training batches.

    On a GPU the images are uint8 pixels, on a CPU they are normalised in the precision of the recipe.

    Raises:
        DataError: The data set is missing or damaged, or holds too few images for one step.
    """
    recipe = run.recipe
    return TrainLoader(
        setup.data_root / run.data.path,
        TrainLoaderConfig(
            batch_size=recipe.batch_size // setup.world_size,
            seed_order=run.seeds.order,
            seed_augmentation=run.seeds.augmentation,
            rank=setup.rank,
            world_size=setup.world_size,
            crop_scale=recipe.crop_scale,
            crop_ratio=recipe.crop_ratio,
            flip=recipe.flip,
            photometric=recipe.photometric,
            train_fraction=run.data.train_fraction,
            train_images=run.train_images,
            threads=setup.threads,
            device=setup.device,
            dtype=_pixel_dtype(run, setup),
        ),
    )


def build_val_loader(run: RunConfig, setup: RankSetup, split: Split = "val", at_most: int | None = None) -> ValLoader:
    """Build the loader of this rank's share of a split, with the central crops of validation.

    Args:
        run: The run.
        setup: The setup of this rank.
        split: The split whose images are loaded.
        at_most: Maximum number of images over all ranks. None loads the whole split.

    Raises:
        DataError: The data set is missing or damaged.
    """
    return ValLoader(
        setup.data_root / run.data.path,
        ValLoaderConfig(
            batch_size=_val_batch(run, setup),
            rank=setup.rank,
            world_size=setup.world_size,
            resolution=run.recipe.resolution,
            val_crop=run.recipe.val_crop,
            split=split,
            at_most=at_most,
            threads=setup.threads,
            device=setup.device,
            dtype=_pixel_dtype(run, setup),
        ),
    )


def _val_batch(run: RunConfig, setup: RankSetup) -> int:
    """The number of images in a validation batch of one rank: that of a training batch, or more on a CPU."""
    batch_size = run.recipe.batch_size // setup.world_size
    if setup.device.type != "cpu":
        return batch_size
    return max(batch_size, VAL_BATCH_PIXELS // run.recipe.resolution**2)


def _pixel_dtype(run: RunConfig, setup: RankSetup) -> torch.dtype:
    """The type of the loaders' images: uint8 on a GPU, which normalises them itself; on a CPU the decoder does that."""
    if setup.device.type == "cuda":
        return torch.uint8
    return resolve_precision(run.recipe.precision, setup.device).dtype
