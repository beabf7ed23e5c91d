"""Computes the cost of a network layer by layer, without data: parameters, multiply-adds and activation memory."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from reproduce.models.auxiliary import AuxiliaryPool
from reproduce.models.googlenet import GoogLeNet
from reproduce.models.inception import Conv2d, Inception
from reproduce.models.pooling import AdaptiveAveragePool
from reproduce.native.kernels import MaxPool
from reproduce.spec import SMALLEST_INPUT, NetworkConfig, SpecError

KINDS: dict[type[nn.Module], str] = {
    Conv2d: "convolution",
    nn.BatchNorm2d: "norm",
    MaxPool: "max pool",
    AdaptiveAveragePool: "average pool",
    AuxiliaryPool: "average pool",
    nn.Linear: "linear",
    Inception: "concatenation",
}
"""Names of the kinds of layers that have a cost, by the class of the module. ReLU and dropout have none."""
FLOAT32_BYTES = 4


@dataclass(frozen=True, kw_only=True)
class LayerCost:
    """Cost of one layer for one image."""

    name: str
    """Dotted path of the module, for example `inception3a.branch2.0.conv`."""
    kind: str
    """One of the values of `KINDS`. A "concatenation" joins the branches of an Inception module, whose name it has."""
    input_elements: int
    """Number of elements that the layer reads from its input. For a concatenation it equals the size of the output."""
    output_shape: tuple[int, int, int]
    """Channels, height and width. Height and width are 1 if the output is a vector."""
    parameters: int
    """Number of parameters of the layer itself, biases included."""
    macs: int
    """Number of multiply-adds of a convolution or a linear layer, without those for biases. It is 0 for other kinds."""
    activation_bytes: int
    """Size of the output in bytes, as float32."""


@dataclass(frozen=True)
class Cost:
    """Cost of a network, or of a part of it, for one image: the costs of its layers and their sums."""

    layers: tuple[LayerCost, ...]
    """Costs of the layers, in the order in which they run."""

    @property
    def parameters(self) -> int:
        """Number of parameters, biases included."""
        return sum(layer.parameters for layer in self.layers)

    @property
    def macs(self) -> int:
        """Number of multiply-adds of one forward pass."""
        return sum(layer.macs for layer in self.layers)

    @property
    def activation_bytes(self) -> int:
        """Sum of the sizes of all layers' outputs in bytes, as float32.

        ReLU, which works in place, and dropout are not counted. Training has to keep all these outputs for the backward
        pass. An evaluation frees them as it proceeds, so that its peak is lower.
        """
        return sum(layer.activation_bytes for layer in self.layers)

    def part(self, name: str) -> Cost:
        """Select the cost of one module with all its submodules, for example `part("inception3a")`.

        Args:
            name: Dotted path of the module.

        Returns:
            The cost of the layers in the module. It has no layers if no layer of the network has this path.
        """
        return Cost(tuple(x for x in self.layers if x.name == name or x.name.startswith(f"{name}.")))


def cost(config: NetworkConfig, resolution: int | None = None, training: bool = False) -> Cost:
    """Compute the cost of a network for one image.

    The network runs on torch's meta device. It therefore needs no memory for weights and activations and does not
    change the state of torch's random generators. A call takes about 0.05 s; the first one in a process takes a second
    longer, because torch then imports its shape rules.

    Args:
        config: Config of the network.
        resolution: Side of the image in pixels; None uses `config.resolution`.
        training: Whether to include the auxiliary classifiers, which run in training only.

    Raises:
        SpecError: The resolution is below `SMALLEST_INPUT`, 32 pixels.
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
