"""Average a network's weights over the steps of a training, for use in evaluation."""

from __future__ import annotations

import copy
from typing import Any, Literal

import torch
from torch import Tensor, nn


def running_statistics(network: nn.Module) -> list[Tensor]:
    """List the running means and variances of a network's batch normalisation.

    Returns:
        All floating-point buffers of the network, by reference; empty without batch normalisation.
    """
    return [buffer for buffer in network.buffers() if buffer.is_floating_point()]


class WeightAverage:
    """A copy of a network that holds the average of its weights over the training steps.

    The running statistics of batch normalisation are averaged by the same rule as the weights. This is an
    approximation: they describe the networks of the individual steps, not the averaged network. The difference
    vanishes as the weights settle. Exact statistics would cost a pass over the training images in each epoch.

    The average reads the tensors of `network` in place, so the network must keep its parameters and buffers. `network`
    itself is never changed. The attribute `network` is the averaged copy, in evaluation mode and without gradients.

    Args:
        network: The network in training.
        rule: "ema" is an exponential average whose decay at step t, from 0, is min(`decay`, (1 + t) / (10 + t)), so
            that the first weights do not dominate a short training. "polyak" is the arithmetic mean over all steps
            (Szegedy et al. 2014, section 6).
        decay: Upper limit of the decay of "ema", between 0 and 1. "polyak" ignores it.
    """

    # `torch.optim.swa_utils.AveragedModel` gives other numbers: its first update copies the weights, whereas that of
    # "ema" averages them with the initial ones. Its state dict also has other keys than the checkpoints written so far.

    def __init__(self, network: nn.Module, rule: Literal["ema", "polyak"], decay: float) -> None:
        self.network = copy.deepcopy(network).requires_grad_(False).eval()
        self.steps = 0
        self._rule, self._decay = rule, decay
        self._current = _averaged_tensors(network)
        self._mean = _averaged_tensors(self.network)

    @property
    def next_weight(self) -> float:
        """The weight, between 0 and 1, that the network's present values have in the average after the next update."""
        if self._rule == "polyak":
            return 1 / (1 + self.steps)
        return 1 - min(self._decay, (1 + self.steps) / (10 + self.steps))

    @property
    def tensors(self) -> list[Tensor]:
        """The averaged weights and running statistics, by reference."""
        return self._mean

    def update(self) -> None:
        """Add the network's present weights and running statistics to the average. Call it once after each step."""
        torch._foreach_lerp_(self._mean, self._current, self.next_weight)
        self.steps += 1

    def lerp(self, weight: Tensor) -> None:
        """Do the arithmetic of `update`, with `next_weight` in a tensor, and do not count it.

        Args:
            weight: The weight, 0-d float32 on the device of the network.
        """
        torch._foreach_lerp_(self._mean, self._current, [weight] * len(self._mean))

    def state_dict(self) -> dict[str, Any]:
        """Return the state for a checkpoint: `network`, the averaged state dict, and `steps`, the number of updates."""
        return {"network": self.network.state_dict(), "steps": self.steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state that `state_dict` returned, so that later updates continue from it."""
        self.network.load_state_dict(state["network"])
        self.steps = state["steps"]


def _averaged_tensors(network: nn.Module) -> list[Tensor]:
    return [parameter.detach() for parameter in network.parameters()] + running_statistics(network)
