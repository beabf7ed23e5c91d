"""The roofline model of a network: lower bounds for the time that each layer takes on a device.

In this model, a layer takes as long as its arithmetic or its memory traffic, whichever is slower. Each pass reads or
writes each tensor once, caches keep nothing from one layer to the next, and ReLU and dropout cost nothing. A device
whose caches hold a whole feature map can be faster than the bound. Source: Williams, Waterman and Patterson,
"Roofline", 2009.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from reproduce.models.cost import Cost, LayerCost

KEEPS_INPUT = ("convolution", "linear", "norm")
"""Kinds of layers that read their input again in the backward pass."""
UPDATE_BYTES = 20
"""Memory traffic in bytes of one update of one float32 parameter by SGD with momentum.

The update reads the weight, the gradient and the momentum buffer, and writes the weight and the buffer.
"""


@dataclass(frozen=True, kw_only=True)
class Ceiling:
    """Peak arithmetic throughput and memory bandwidth of a device, measured or from its data sheet."""

    flops_per_s: float
    """Floating-point operations per second. A multiply-add counts as two."""
    bytes_per_s: float
    """Memory bandwidth in bytes per second."""


@dataclass(frozen=True)
class LayerBound:
    """Lower bound for the time that one layer takes for one image, summed over all passes."""

    name: str
    """Dotted path of the module."""
    kind: str
    """Kind of the layer, as in `LayerCost`."""
    seconds: float
    """The bound in seconds per image."""
    limit: Literal["arithmetic", "memory"]
    """The slower of the two, each summed over all passes."""


def roofline(cost: Cost, ceiling: Ceiling, *, batch: int, training: bool, element_bytes: int) -> tuple[LayerBound, ...]:
    """Compute a lower bound for the time that each layer takes for one image.

    Args:
        cost: Cost of the network for one image, computed with the same value of `training`.
        ceiling: Peak throughput of the device.
        batch: Number of images in a batch. Traffic for the parameters is shared by the images of a batch.
        training: True for a training step: the forward pass, the backward pass with twice its multiply-adds, and the
            update of SGD with momentum. False for the forward pass of an evaluation.
        element_bytes: Size in bytes of an element of the activations and weights, for example 2 for bfloat16.

    Returns:
        The bounds in the order of `cost.layers`. Normalisation layers are left out unless `training` is True, because
        an evaluation folds them into the convolutions.
    """
    layers = cost.layers if training else [layer for layer in cost.layers if layer.kind != "norm"]
    return tuple(_bound(layer, ceiling, batch, training, element_bytes) for layer in layers)


def seconds_per_image(bounds: tuple[LayerBound, ...]) -> float:
    """Compute a lower bound for the time per image, in seconds, as the sum of the bounds of all layers."""
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
