"""A lower bound for the time that a device needs for a network, layer by layer: its roofline.

A layer takes as long as the slower of its arithmetic and its memory traffic. Each pass reads or writes each tensor
once, caches keep nothing from one layer to the next, and ReLU and dropout cost nothing. A device whose caches hold a
whole feature map can be faster than this bound. Source: Williams, Waterman and Patterson, "Roofline", 2009.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from reproduce.models.cost import Cost, LayerCost

KEEPS_INPUT = ("convolution", "linear", "norm")
"""Kinds of layers whose gradient needs their input."""
UPDATE_BYTES = 20
"""Traffic of SGD with momentum for a parameter in float32: it reads weight, gradient and momentum buffer, and writes
weight and buffer."""


@dataclass(frozen=True, kw_only=True)
class Ceiling:
    """The best that a device reaches, measured or from its data sheet."""

    flops_per_s: float
    """Floating-point operations a second; a multiply-add counts as two."""
    bytes_per_s: float
    """Memory bandwidth."""


@dataclass(frozen=True)
class LayerBound:
    """Lower bound for the time of one image in one layer, all passes together."""

    name: str
    kind: str
    seconds: float
    limit: Literal["arithmetic", "memory"]


def roofline(cost: Cost, ceiling: Ceiling, *, batch: int, training: bool, element_bytes: int) -> tuple[LayerBound, ...]:
    """Compute the bound of each layer.

    Args:
        cost: Cost of the network for one image.
        ceiling: What the device reaches at best.
        batch: Images of a batch. Each batch reads the parameters once.
        training: True for the forward pass, the backward pass (with twice the multiply-adds) and the optimiser's
            update. False for the forward pass of an evaluation, where folded normalisation costs nothing.
        element_bytes: Bytes of an element of the activations and weights.
    """
    layers = cost.layers if training else [layer for layer in cost.layers if layer.kind != "norm"]
    return tuple(_bound(layer, ceiling, batch, training, element_bytes) for layer in layers)


def seconds_per_image(bounds: tuple[LayerBound, ...]) -> float:
    """Lower bound for the seconds of one image: the sum over all layers."""
    return sum(bound.seconds for bound in bounds)


def _bound(layer: LayerCost, ceiling: Ceiling, batch: int, training: bool, element_bytes: int) -> LayerBound:
    output = math.prod(layer.output_shape)
    forward = layer.input_elements + output
    passes = [(layer.macs, element_bytes * (forward + layer.parameters / batch))]
    if training:
        backward = forward + (layer.input_elements if layer.kind in KEEPS_INPUT else 0)
        weights = (2 * element_bytes + UPDATE_BYTES) * layer.parameters / batch
        passes.append((2 * layer.macs, element_bytes * backward + weights))
    arithmetic = [2 * macs / ceiling.flops_per_s for macs, _ in passes]
    memory = [size / ceiling.bytes_per_s for _, size in passes]
    seconds = sum(map(max, arithmetic, memory))
    return LayerBound(layer.name, layer.kind, seconds, "arithmetic" if sum(arithmetic) >= sum(memory) else "memory")
