"""Averages of a network's weights over the steps of a training, used for evaluation."""

from __future__ import annotations

import copy
from typing import Any, Literal

import torch
from torch import Tensor, nn


def running_statistics(network: nn.Module) -> list[Tensor]:
    """The running means and variances of a network's batch normalisation: its floating-point buffers."""
    return [buffer for buffer in network.buffers() if buffer.is_floating_point()]


class WeightAverage:
    """A copy of a network that holds an average of its weights.

    "ema" is an exponential average whose decay at step t is min(`decay`, (1 + t) / (10 + t)), so that the first weights
    do not dominate a short training. "polyak" is the mean over all steps (Szegedy et al. 2014, section 6).

    The running statistics of batch normalisation are averaged by the same rule as the weights. They describe the
    networks along the way rather than the averaged one, which becomes exact as the weights settle. Estimating them
    anew would cost a pass over the training images in each epoch.
    """

    # `torch.optim.swa_utils.AveragedModel` gives other numbers: its first update copies the weights, where this one
    # averages them with the initial ones. Its state dict also has other keys than the checkpoints written so far.

    def __init__(self, network: nn.Module, rule: Literal["ema", "polyak"], decay: float) -> None:
        self.network = copy.deepcopy(network).requires_grad_(False).eval()
        self.steps = 0
        self._rule, self._decay = rule, decay
        self._current = _averaged_tensors(network)
        self._mean = _averaged_tensors(self.network)

    def update(self) -> None:
        """Include the network's weights after a step."""
        if self._rule == "polyak":
            weight = 1 / (1 + self.steps)
        else:
            weight = 1 - min(self._decay, (1 + self.steps) / (10 + self.steps))
        torch._foreach_lerp_(self._mean, self._current, weight)
        self.steps += 1

    def state_dict(self) -> dict[str, Any]:
        """The averaged network and the number of steps, as checkpoints hold them."""
        return {"network": self.network.state_dict(), "steps": self.steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from what `state_dict` returned."""
        self.network.load_state_dict(state["network"])
        self.steps = state["steps"]


def _averaged_tensors(network: nn.Module) -> list[Tensor]:
    return [parameter.detach() for parameter in network.parameters()] + running_statistics(network)
