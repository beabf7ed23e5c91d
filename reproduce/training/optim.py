"""Build the optimiser: SGD with momentum, in torch's fused implementation on CPUs and CUDA GPUs."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, Optimizer
from torch.optim.sgd import sgd as functional_sgd

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


class EagerSGD(SGD):
    """torch's SGD without the guards that keep torch.compile out of it, for steps that are never compiled as a whole.

    The guards import the compiler at the first call, which takes a worker about three seconds of one core.
    """

    add_param_group = inspect.unwrap(SGD.add_param_group)
    zero_grad = inspect.unwrap(SGD.zero_grad)
    state_dict = inspect.unwrap(SGD.state_dict)
    load_state_dict = inspect.unwrap(SGD.load_state_dict)
    step = torch.no_grad()(inspect.unwrap(SGD.step))


class _InMemoryOrder(EagerSGD):
    """SGD on CPUs that passes weights, gradients and momenta to the fused kernel in the order in which memory has them.

    As of torch 2.14, the kernel copies each gradient that is in channels_last without need, and mixes up the elements
    of a weight and a gradient whose memory formats differ.
    """

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        momenta(self)
        for group in self.param_groups:
            weights = [weight for weight in group["params"] if weight.grad is not None]
            gradients = [_in_memory_order(weight.grad, weight) for weight in weights]
            kept = [self._momentum(weight) if group["momentum"] else None for weight in weights]
            settings = ("weight_decay", "momentum", "lr", "dampening", "nesterov", "maximize")
            functional_sgd(
                [_in_memory_order(weight, weight) for weight in weights],
                gradients,
                kept,
                fused=True,
                **{name: group[name] for name in settings},
            )

    def _momentum(self, weight: Tensor) -> Tensor:
        state = self.state[weight]
        # A checkpoint may hold it in another format.
        state["momentum_buffer"] = state["momentum_buffer"].contiguous(memory_format=_memory_format(weight))
        return _in_memory_order(state["momentum_buffer"], weight)


def _memory_format(weight: Tensor) -> torch.memory_format:
    return torch.contiguous_format if weight.is_contiguous() else torch.channels_last


def _in_memory_order(tensor: Tensor, weight: Tensor) -> Tensor:
    """View a tensor, which is copied if it has not the memory format of its weight, as one that is contiguous.

    Args:
        tensor: A weight, its gradient or its momentum.
        weight: That weight, [O, C, k, k] in channels_last, or contiguous.
    """
    tensor = tensor.contiguous(memory_format=_memory_format(weight))
    return tensor if weight.is_contiguous() else tensor.permute(0, 2, 3, 1)


def sgd(network: nn.Module, recipe: RecipeConfig) -> SGD:
    """Build the optimiser of a recipe. The network must already be on the device that trains it."""
    device = next(network.parameters()).device.type
    kind = _InMemoryOrder if device == "cpu" else EagerSGD
    return kind(
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


@contextmanager
def learning_rate_in(optimiser: Optimizer, rate: Tensor) -> Iterator[None]:
    """Let an optimiser read the learning rate of all groups from a tensor within a block.

    Outside of it the rates are the same floats as before, which checkpoints hold.

    Args:
        optimiser: The optimiser.
        rate: The rate, 0-d float32 on the device of the parameters.
    """
    before = [group["lr"] for group in optimiser.param_groups]
    for group in optimiser.param_groups:
        group["lr"] = rate
    try:
        yield
    finally:
        for group, value in zip(optimiser.param_groups, before, strict=True):
            group["lr"] = value


def momenta(optimiser: Optimizer) -> list[Tensor]:
    """Return the momentum of every parameter, and create those that SGD would create in its first step.

    They begin with zeros, which gives the first step the same result: the momentum of the gradient alone.
    """
    found = []
    for group in optimiser.param_groups:
        for parameter in group["params"] if group["momentum"] else ():
            state = optimiser.state[parameter]
            if "momentum_buffer" not in state:
                state["momentum_buffer"] = torch.zeros_like(parameter)
            found.append(state["momentum_buffer"])
    return found
