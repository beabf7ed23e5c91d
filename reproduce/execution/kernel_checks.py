"""Compares the kernels that a run will use with torch's, so that its record can say from its start which were dropped.

Every layer would be compared at its first use as well (`reproduce.native.agreement`), which is after the start of the
record.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from typing import NamedTuple

import torch
from torch import Tensor, nn

from reproduce.models import GoogLeNet
from reproduce.models.inception import Inception
from reproduce.native import agreement
from reproduce.native.kernels import BACKENDS, MaxPool, norm_relu
from reproduce.spec import NetworkConfig

Layer = MaxPool | nn.BatchNorm2d | Inception


class LayerUse(NamedTuple):
    """A kind of pool, normalisation or Inception module in a network: of the same parameters and maps of one shape."""

    layer: Layer
    """One of the layers, on the meta device."""
    shape: tuple[int, ...]
    """Channels, height and width of its input."""
    layers: int
    """How many layers of the network are of this kind."""


def check_kernels(
    network: NetworkConfig, sides: Collection[int], device: torch.device, dtype: torch.dtype
) -> tuple[str, ...]:
    """Compare each kind of pool and normalisation, and of sums of gradients, of a network in training with torch's.

    It takes some 50 ms on CPUs, and seconds on GPUs, mostly for compiling the kernels.

    Args:
        network: The network.
        sides: Sides of the training images in pixels.
        device: The device that trains.
        dtype: The type of the maps.

    Returns:
        What is left to torch, each in a phrase with the reason. Empty if all kernels agree, or if there are none for
        the device and the type.
    """
    backend = BACKENDS.get(device.type)
    if backend is None or not backend.takes(dtype) or not backend.implementation().native:
        return ()
    if backend.by_map:
        layers = [use for side in sorted(sides) for use in layer_uses(network, side)]
    else:  # the same kernel whatever the map, so that any will do
        layers = [LayerUse(layer, (getattr(layer, "num_features", 8), 8, 8), 1) for layer in _layers(_on_meta(network))]
    for layer, shape, _ in layers:
        x = torch.zeros(2, *shape, device=device, dtype=dtype).contiguous(memory_format=torch.channels_last)
        with torch.no_grad():
            if isinstance(layer, MaxPool):
                layer(x)
            elif isinstance(layer, Inception):
                agreement.on_sum(backend, x, len(layer.branch_channels))
            else:
                norm_relu(nn.BatchNorm2d(shape[0], eps=layer.eps, device=device), x)
    return agreement.dropped()


def layer_uses(network: NetworkConfig, side: int) -> list[LayerUse]:
    """List the kinds of pools, normalisations and modules of a network in training, for images of `side` pixels.

    Args:
        network: The network.
        side: Side of the images in pixels.

    Returns:
        The kinds in the order in which they are first used.
    """
    built = _on_meta(network)
    found: dict[tuple[str, tuple[int, ...]], Layer] = {}
    counts: Counter[tuple[str, tuple[int, ...]]] = Counter()

    def note(module: nn.Module, inputs: tuple[Tensor]) -> None:
        assert isinstance(module, Layer)
        name = f"{len(module.branch_channels)} branches" if isinstance(module, Inception) else str(module)
        kind = name, tuple(inputs[0].shape[1:])
        found.setdefault(kind, module)
        counts[kind] += 1

    for layer in _layers(built):
        layer.register_forward_pre_hook(note)
    with torch.no_grad():
        built(torch.empty(2, 3, side, side, device="meta"))
    return [LayerUse(layer, kind[1], counts[kind]) for kind, layer in found.items()]


def _on_meta(network: NetworkConfig) -> GoogLeNet:
    with torch.device("meta"):
        return GoogLeNet(network).train()


def _layers(network: GoogLeNet) -> list[Layer]:
    return [module for module in network.modules() if isinstance(module, Layer)]
