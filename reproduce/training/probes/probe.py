"""What a probe is: a function from a trained network to metrics."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from reproduce.data.loading.loaders import ValLoader
from reproduce.data.loading.normalise import Normalise
from reproduce.execution.ranks import Ranks
from reproduce.spec import RunConfig


@dataclass(frozen=True)
class TrainedNetwork:
    """All that a probe gets."""

    run: RunConfig
    network: nn.Module
    """The network with the weights that validation uses: the averaged ones if the recipe averages."""
    normalise: Normalise
    """Turns the loaders' pixels into the network's input."""
    dtype: torch.dtype
    """What the network computes in: bfloat16 or float32."""
    ranks: Ranks
    """The ranks of the run. All of them run each probe together."""
    val_images: ValLoader
    """All validation images."""
    train_images: ValLoader
    """Images that the training used, at most as many as there are validation images, cropped as in validation."""
    stop_check: Callable[[ValLoader], Callable[[int], None]]
    """For `validate(before_batch=...)`: makes a stop request end the probe before the next batch of a loader."""


Probe = Callable[[TrainedNetwork], dict[str, float]]
"""Measures a trained network. Returns final metrics, by their names in `reproduce.schema`, the same on every rank."""
