"""Makes the inputs of a step that is measured without data: a run without a data set, and a random batch."""

from __future__ import annotations

import torch
from torch import Tensor

from reproduce.spec import DataConfig, NetworkConfig, PrecisionName, RecipeConfig, RunConfig, Seeds

LEARNING_RATE = 0.01


def run_without_data(
    network: NetworkConfig, *, batch: int, workers: int = 1, precision: PrecisionName = "auto"
) -> RunConfig:
    """Return the config of a run that has no data set. It serves to build a step, and cannot be trained.

    Args:
        network: The network, which also gives the resolution of the recipe.
        batch: The batch size of the recipe, which is also that of `random_batch`.
        workers: Number of ranks.
        precision: The precision of the recipe.
    """
    return RunConfig(
        data=DataConfig(path="none"),
        data_hash="none",
        network=network,
        recipe=RecipeConfig(
            epochs=1,
            batch_size=batch,
            learning_rate=LEARNING_RATE,
            resolution=network.resolution,
            precision=precision,
        ),
        seeds=Seeds.of(0),
        workers=workers,
    )


def random_batch(run: RunConfig, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return a batch of random images and labels, drawn from the random generator of torch for the device.

    Args:
        run: Gives the number of images N (`recipe.batch_size`, whatever the number of workers), their side S in pixels
            (`recipe.resolution`) and the number of classes.
        device: Where the batch is made.

    Returns:
        Images, uint8 [N, 3, S, S] in channels_last with values from 0 to 255, and labels, int64 [N].
    """
    batch, side = run.recipe.batch_size, run.recipe.resolution
    images = torch.randint(0, 256, (batch, 3, side, side), dtype=torch.uint8, device=device)
    labels = torch.randint(0, run.network.classes, (batch,), device=device)
    return images.contiguous(memory_format=torch.channels_last), labels
