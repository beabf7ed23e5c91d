"""Averages of the weights over the steps of a training, for evaluation."""

from __future__ import annotations

import copy
from typing import Any, Literal

import torch
from torch import Tensor, nn


def statistics(network: nn.Module) -> list[Tensor]:
    """Running means and variances of a network's batch normalisation (its floating-point buffers)."""
    return [buffer for buffer in network.buffers() if buffer.is_floating_point()]


class Average:
    """A copy of a network that holds an average of its weights.

    ema: decay min(`decay`, (1 + t) / (10 + t)) at step t, so that a short training is not ruled by its first weights.
    polyak: the mean over all steps (P section 6).

    Batch normalisation's running statistics are averaged by the same rule as the weights. They are statistics of
    the passing networks and not of the averaged one, which is exact in the limit of weights that hardly move;
    estimating them anew would cost a pass over training images each epoch.
    """

    def __init__(self, network: nn.Module, rule: Literal["ema", "polyak"], decay: float) -> None:
        self.network = copy.deepcopy(network).requires_grad_(False).eval()
        self.steps = 0
        self._rule, self._decay = rule, decay
        self._live = _averaged_tensors(network)
        self._mean = _averaged_tensors(self.network)

    def update(self) -> None:
        """Take in the network's weights as they are after a step."""
        if self._rule == "polyak":
            weight = 1 / (1 + self.steps)
        else:
            weight = 1 - min(self._decay, (1 + self.steps) / (10 + self.steps))
        torch._foreach_lerp_(self._mean, self._live, weight)
        self.steps += 1

    def state_dict(self) -> dict[str, Any]:
        return {"network": self.network.state_dict(), "steps": self.steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.network.load_state_dict(state["network"])
        self.steps = state["steps"]


def _averaged_tensors(network: nn.Module) -> list[Tensor]:
    return [parameter.detach() for parameter in network.parameters()] + statistics(network)
