"""Build the optimiser: SGD with momentum, in torch's fused implementation on CPUs and CUDA GPUs."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.optim import SGD, Optimizer

from reproduce.spec import RecipeConfig


def parameter_groups(network: nn.Module, recipe: RecipeConfig) -> list[dict[str, Any]]:
    """Divide a network's parameters into the optimiser's parameter groups.

    Returns:
        One group with the recipe's weight decay. With `decay_norm_and_bias: false`, a second group without weight decay
        holds the biases and the parameters of normalisation: those with one dimension.
    """
    parameters = list(network.parameters())
    if recipe.decay_norm_and_bias:
        return [{"params": parameters, "weight_decay": recipe.weight_decay}]
    return [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": recipe.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]


def sgd(network: nn.Module, recipe: RecipeConfig) -> SGD:
    """Build the optimiser of a recipe. The network must already be on the device that trains it."""
    device = next(network.parameters()).device.type
    return SGD(
        parameter_groups(network, recipe),
        lr=recipe.learning_rate,
        momentum=recipe.momentum,
        nesterov=recipe.nesterov,
        fused=device in ("cpu", "cuda"),
    )


def set_learning_rate(optimiser: Optimizer, rate: float) -> None:
    """Set the learning rate of all parameter groups, in place."""
    for group in optimiser.param_groups:
        group["lr"] = rate
