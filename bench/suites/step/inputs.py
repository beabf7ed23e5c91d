"""Defines what all implementations of a step or an evaluation get: a network, and a batch on the device."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from bench.suites.harness.inputs import random_batch, run_without_data
from reproduce.spec import NetworkConfig, PrecisionName

StepFunction = Callable[[], object]
"""Queues one training step or one forward pass on the device, and does not wait for it. On CPUs it does the work."""


@dataclass(frozen=True)
class StepInputs:
    """The network that all implementations train or evaluate, and one batch that is already on the device."""

    network: NetworkConfig
    images: Tensor
    """Images, uint8 [N, 3, S, S] in channels_last."""
    labels: Tensor
    """Labels, int64 [N]."""
    training: bool
    """Whether to train the network instead of evaluating it."""
    precision: PrecisionName = "auto"
    """The precision of ours. Those of torchvision's have their own."""

    @property
    def device(self) -> torch.device:
        """The device that holds the batch and does the work."""
        return self.images.device

    @property
    def batch(self) -> int:
        """Number of images N."""
        return len(self.images)


def step_inputs(
    network: NetworkConfig, batch: int, device: torch.device, *, training: bool, precision: PrecisionName = "auto"
) -> StepInputs:
    """Make inputs with a random batch.

    Args:
        network: The network, which also gives the side of the images (`resolution`) and the number of classes.
        batch: Number of images.
        device: Where the batch is made.
        training: Whether to train the network instead of evaluating it.
        precision: The precision of ours.
    """
    return StepInputs(network, *random_batch(run_without_data(network, batch=batch), device), training, precision)


def port_network(side: int, **changes: object) -> NetworkConfig:
    """Return the config of our network with the layers of torchvision's port and 1000 classes.

    Args:
        side: Side of the images, in pixels.
        **changes: Values of further fields of `NetworkConfig`, or of the fields that this function sets: `classes`,
            `resolution`, `large_kernel` and `pooling`.
    """
    return NetworkConfig.model_validate(
        {"classes": 1000, "resolution": side, "large_kernel": "3x3", "pooling": "port", **changes}
    )
