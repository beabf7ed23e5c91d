"""Cost of a network, layer by layer: parameters, multiply-adds and activation memory, computed without any data."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from reproduce.models.auxiliary import AuxiliaryPool
from reproduce.models.googlenet import GoogLeNet
from reproduce.models.inception import Inception
from reproduce.models.pooling import AdaptiveAveragePool
from reproduce.native.kernels import MaxPool
from reproduce.spec import SMALLEST_INPUT, NetworkConfig, SpecError

KINDS: dict[type[nn.Module], str] = {
    nn.Conv2d: "convolution",
    nn.BatchNorm2d: "norm",
    MaxPool: "max pool",
    AdaptiveAveragePool: "average pool",
    AuxiliaryPool: "average pool",
    nn.Linear: "linear",
    Inception: "concatenation",
}
FLOAT32_BYTES = 4


@dataclass(frozen=True, kw_only=True)
class LayerCost:
    """Cost of one layer for one image."""

    name: str
    """Dotted path of the module, for example `inception3a.branch2.0.conv`."""
    kind: str
    """One of the values of `KINDS`. The concatenation of an Inception module's branches has the module's name."""
    input_elements: int
    """Elements that the layer reads from its input; a concatenation reads as many as it writes."""
    output_shape: tuple[int, int, int]
    """Channels, height and width; height and width are 1 for vectors."""
    parameters: int
    """Number of parameters."""
    macs: int
    """Multiply-adds of convolutions and linear layers; biases, pools and normalisation count as none."""
    activation_bytes: int
    """Size of the output in float32, in bytes."""


@dataclass(frozen=True)
class Cost:
    """Costs of the layers of a network for one image, in the order in which they run, and their sums."""

    layers: tuple[LayerCost, ...]

    @property
    def parameters(self) -> int:
        return sum(layer.parameters for layer in self.layers)

    @property
    def macs(self) -> int:
        return sum(layer.macs for layer in self.layers)

    @property
    def activation_bytes(self) -> int:
        """Bytes that one forward pass writes in float32, without in-place ReLU and dropout.

        Training has to keep them all. An evaluation frees memory as it proceeds, and its peak is lower.
        """
        return sum(layer.activation_bytes for layer in self.layers)

    def part(self, name: str) -> Cost:
        """The cost of a module with all its submodules, for example `part("inception3a")`."""
        return Cost(tuple(x for x in self.layers if x.name == name or x.name.startswith(f"{name}.")))


def cost(config: NetworkConfig, resolution: int | None = None, training: bool = False) -> Cost:
    """Compute the cost of a network for one image.

    The network runs on torch's meta device, so that this takes no memory and leaves the global generator as it is. It
    takes about 0.05 s, and a second more at the first call in a process, when torch imports its shape rules.

    Args:
        config: The network's config.
        resolution: Side of the image in pixels; by default `config.resolution`.
        training: Whether the auxiliary classifiers count, which only run in training.

    Raises:
        SpecError: The resolution is below the smallest input.
    """
    side = config.resolution if resolution is None else resolution
    if side < SMALLEST_INPUT:
        raise SpecError(f"resolution: {side} is too small for the network; use at least {SMALLEST_INPUT}")
    with torch.device("meta"):
        network = GoogLeNet(config).train(training)
        images = torch.empty(2, 3, side, side)  # batch normalisation cannot train on a single image of a 1x1 map
    layers: list[LayerCost] = []
    for name, module in network.named_modules():
        if type(module) in KINDS:
            module.register_forward_hook(partial(_record, layers, name))
    with torch.no_grad():
        network(images)
    return Cost(tuple(layers))


def _record(layers: list[LayerCost], name: str, module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
    channels, height, width = (*output.shape[1:], 1, 1)[:3]
    weights = module.weight.numel() if isinstance(module, nn.Conv2d | nn.Linear) else 0
    layers.append(
        LayerCost(
            name=name,
            kind=KINDS[type(module)],
            input_elements=(output if isinstance(module, Inception) else inputs[0])[0].numel(),
            output_shape=(channels, height, width),
            parameters=sum(parameter.numel() for parameter in module.parameters(recurse=False)),
            macs=weights * height * width,
            activation_bytes=channels * height * width * FLOAT32_BYTES,
        )
    )
