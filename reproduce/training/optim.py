"""The optimiser: SGD with momentum, fused on every device that torch fuses it for."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.optim import SGD, Optimizer

from reproduce.spec import RecipeConfig


def parameter_groups(network: nn.Module, recipe: RecipeConfig) -> list[dict[str, Any]]:
    """Parameters with weight decay and, where the recipe spares norms and biases, those without.

    Weights of convolutions and linear layers have two dimensions or more; biases and normalisation have one.
    """
    parameters = list(network.parameters())
    if recipe.decay_norm_and_bias:
        return [{"params": parameters, "weight_decay": recipe.weight_decay}]
    return [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": recipe.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]


def sgd(network: nn.Module, recipe: RecipeConfig) -> SGD:
    """SGD of a recipe for the parameters of a network, which lie on their device already."""
    device = next(network.parameters()).device.type
    return SGD(
        parameter_groups(network, recipe),
        lr=recipe.learning_rate,
        momentum=recipe.momentum,
        nesterov=recipe.nesterov,
        fused=device in ("cpu", "cuda"),
    )


def set_learning_rate(optimiser: Optimizer, rate: float) -> None:
    for group in optimiser.param_groups:
        group["lr"] = rate
