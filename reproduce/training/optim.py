"""The optimiser: SGD with momentum, in torch's fused implementation where there is one."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.optim import SGD, Optimizer

from reproduce.spec import RecipeConfig


def parameter_groups(network: nn.Module, recipe: RecipeConfig) -> list[dict[str, Any]]:
    """The optimiser's parameter groups: one with weight decay and, if the recipe asks for it, one without.

    With `decay_norm_and_bias: false`, biases and the parameters of normalisation have no weight decay. They have one
    dimension; the weights of convolutions and linear layers have two or more.
    """
    parameters = list(network.parameters())
    if recipe.decay_norm_and_bias:
        return [{"params": parameters, "weight_decay": recipe.weight_decay}]
    return [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": recipe.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]


def sgd(network: nn.Module, recipe: RecipeConfig) -> SGD:
    """The optimiser of a recipe, for a network that is on its device already."""
    device = next(network.parameters()).device.type
    return SGD(
        parameter_groups(network, recipe),
        lr=recipe.learning_rate,
        momentum=recipe.momentum,
        nesterov=recipe.nesterov,
        fused=device in ("cpu", "cuda"),
    )


def set_learning_rate(optimiser: Optimizer, rate: float) -> None:
    """Set the learning rate of all parameter groups."""
    for group in optimiser.param_groups:
        group["lr"] = rate
