"""The loaders of a run on one rank."""

from __future__ import annotations

import torch

from reproduce.data.loading.loaders import TrainLoader, TrainLoaderConfig, ValLoader, ValLoaderConfig
from reproduce.data.manifest import Split
from reproduce.execution.precision import resolve_precision
from reproduce.spec import RunConfig
from reproduce.training.interface import RankSetup


def build_train_loader(run: RunConfig, setup: RankSetup) -> TrainLoader:
    """The loader of this rank's training batches."""
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
            threads=setup.threads,
            device=setup.device,
            dtype=_pixel_dtype(run, setup),
        ),
    )


def build_val_loader(run: RunConfig, setup: RankSetup, split: Split = "val", at_most: int | None = None) -> ValLoader:
    """The loader of this rank's share of a split, in validation's crops.

    Args:
        run: The run.
        setup: Where this rank trains.
        split: The split whose images are loaded.
        at_most: Number of images of all ranks, if the split has more.
    """
    return ValLoader(
        setup.data_root / run.data.path,
        ValLoaderConfig(
            batch_size=run.recipe.batch_size // setup.world_size,
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


def _pixel_dtype(run: RunConfig, setup: RankSetup) -> torch.dtype:
    """A GPU receives bytes and normalises them itself; on CPUs the decoder normalises in the same pass."""
    if setup.device.type == "cuda":
        return torch.uint8
    return resolve_precision(run.recipe.precision, setup.device).dtype
