"""Define the type of a probe, a function from a trained network to metrics, and its argument."""

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
    """The argument of a probe: a trained network, and the loaders and ranks with which to measure it."""

    run: RunConfig
    network: nn.Module
    """The network that was validated. It has the averaged weights if the recipe averages weights."""
    normalise: Normalise
    """Turns the images of the loaders into the input of the network."""
    dtype: torch.dtype
    """Arithmetic of the network: bfloat16 or float32."""
    ranks: Ranks
    """The ranks of the run. All ranks run each probe together."""
    val_images: ValLoader
    """Loads this rank's share of all validation images."""
    train_images: ValLoader
    """Loads this rank's share of training images that the run used, as many as there are validation images or, if fewer
    were used, all of them. They have validation's crops."""
    stop_check: Callable[[ValLoader], Callable[[int], None]]
    """Makes the argument `before_batch` of `validate` for a loader, so that a stop request ends the probe between two
    batches."""


Probe = Callable[[TrainedNetwork], dict[str, float]]
"""A function that measures a trained network on all ranks together and returns final metrics by their names in
`reproduce.schema`, the same on every rank."""
