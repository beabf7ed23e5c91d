"""The inputs of a step that is measured without data: a run without a data set, and a random batch on the device."""

from __future__ import annotations

import torch
from torch import Tensor

from reproduce.spec import DataConfig, NetworkConfig, RecipeConfig, RunConfig, Seeds

LEARNING_RATE = 0.01


def run_without_data(network: NetworkConfig, *, batch: int, workers: int = 1) -> RunConfig:
    """Returns a run that trains `network` at its resolution.

    Args:
        network: The network.
        batch: Images in a batch of all workers together, as `RecipeConfig.batch_size` counts them.
        workers: Number of ranks.
    """
    return RunConfig(
        data=DataConfig(path="none"),
        data_hash="none",
        network=network,
        recipe=RecipeConfig(epochs=1, batch_size=batch, learning_rate=LEARNING_RATE, resolution=network.resolution),
        seeds=Seeds.of(0),
        workers=workers,
    )


def random_batch(run: RunConfig, device: torch.device) -> tuple[Tensor, Tensor]:
    """Returns random images, uint8 [N, 3, S, S] in channels_last, and labels, int64 [N].

    N is the batch size of the recipe and S its resolution in pixels.
    """
    batch, side = run.recipe.batch_size, run.recipe.resolution
    images = torch.randint(0, 256, (batch, 3, side, side), dtype=torch.uint8, device=device)
    labels = torch.randint(0, run.network.classes, (batch,), device=device)
    return images.contiguous(memory_format=torch.channels_last), labels
