"""The least time that a device could take for a network, layer by layer: a roofline of multiply-adds and bytes.

Of a layer's arithmetic and its traffic to memory, the slower one is counted: each tensor is read or written once a
pass, caches keep nothing from one layer to the next, ReLU and dropout cost nothing. A device whose caches hold a whole
map can beat the bound. Source: Williams, Waterman and Patterson, "Roofline", 2009.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from reproduce.models.cost import Cost, LayerCost

KEEPS_INPUT = ("convolution", "linear", "norm")
"""Kinds whose gradient needs the input again."""
UPDATE_BYTES = 20  # a parameter in SGD with momentum, float32: weight, gradient, velocity in; weight, velocity out


@dataclass(frozen=True, kw_only=True)
class Ceiling:
    """What a device reaches at best, by measurement or by its data sheet."""

    flops_per_s: float
    """A multiply-add is two."""
    bytes_per_s: float


@dataclass(frozen=True)
class LayerBound:
    """Least seconds for one image in one layer, all passes together."""

    name: str
    kind: str
    seconds: float
    limit: Literal["arithmetic", "memory"]


def roofline(cost: Cost, ceiling: Ceiling, *, batch: int, training: bool, element_bytes: int) -> tuple[LayerBound, ...]:
    """The bound of each layer of `cost`, whose parameters are read once a batch, with elements of so many bytes.

    Training: forward, backward (twice the multiply-adds) and the optimiser's update; evaluation: forward alone, in
    which normalisation is folded away and costs nothing.
    """
    layers = cost.layers if training else [layer for layer in cost.layers if layer.kind != "norm"]
    return tuple(_bound(layer, ceiling, batch, training, element_bytes) for layer in layers)


def seconds_per_image(bounds: tuple[LayerBound, ...]) -> float:
    """Least seconds of all layers, one after the other."""
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
