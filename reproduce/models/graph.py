"""Depth and receptive fields of a network, from its graph alone. torch.fx traces it; nothing is computed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

WITH_PARAMETERS = (nn.Conv2d, nn.Linear)
POOLS = (nn.MaxPool2d, nn.AdaptiveAvgPool2d)
POINTWISE = (nn.BatchNorm2d, nn.ReLU, nn.Dropout)


@dataclass(frozen=True)
class ReceptiveField:
    """The input pixels, along one side, on which the units of a layer depend.

    Unit i depends on the pixels from `i * jump + first` to `i * jump + last`.
    """

    jump: int = 1
    """Pixels between the fields of neighbouring units."""
    first: int = 0
    """First pixel of unit 0; negative if its field reaches into the padding."""
    last: int = 0
    """Last pixel of unit 0."""

    @property
    def size(self) -> int:
        """Side of the field in pixels."""
        return self.last - self.first + 1

    def through(self, kernel: int, stride: int, padding: int) -> ReceptiveField:
        """The field of a layer whose input has this field."""
        first = self.first - padding * self.jump
        return ReceptiveField(self.jump * stride, first, first + self.size - 1 + (kernel - 1) * self.jump)


def receptive_fields(network: nn.Module) -> dict[str, ReceptiveField]:
    """Compute the receptive field of every convolution, max pool and concatenation.

    Fields follow from kernel, stride and padding, layer by layer. A concatenation has the union of its branches'
    fields. Layers that depend on the whole map (global pooling, linear layers) are left out, and so are those that
    follow them. Kernels are assumed to be square.

    Returns:
        The fields by the name of the layer, in the order in which the layers run. A concatenation has the name of its
        module.
    """
    fields: dict[fx.Node, ReceptiveField] = {}
    named: dict[str, ReceptiveField] = {}
    for node, module in _nodes(network):
        before = [fields[source] for source in node.all_input_nodes if source in fields]
        if node.op == "placeholder":
            fields[node] = ReceptiveField()
        elif not before:
            continue
        elif isinstance(module, nn.Conv2d | nn.MaxPool2d):
            kernel, stride, padding = (_side(x) for x in (module.kernel_size, module.stride, module.padding))
            named[str(node.target)] = fields[node] = before[0].through(kernel, stride, padding)
        elif node.target is torch.cat:
            joined = ReceptiveField(before[0].jump, min(f.first for f in before), max(f.last for f in before))
            named[list(node.meta["nn_module_stack"])[-1]] = fields[node] = joined
        elif isinstance(module, POINTWISE) or node.target is F.relu:
            fields[node] = before[0]
    return named


def receptive_field_by_gradient(network: nn.Module, layer: str, *, length: int, seed: int) -> int:
    """Measure the side of a layer's receptive field: which rows of a random image have a gradient.

    A max pool passes its gradient to a single unit, so that the measured size is a lower bound. Random weights nearly
    always reach it; take the largest size over several seeds. The network computes in float64, because only few paths
    reach the edge of the field.

    Args:
        network: A network that takes images, [N, 3, H, W]; its output is ignored.
        layer: Dotted name of the layer.
        length: Height of the image in pixels. It must be larger than the field.
        seed: Seed of the image.
    """
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(1, 3, length, 32, generator=generator, dtype=torch.float64, requires_grad=True)
    outputs: list[Tensor] = []
    hook = network.get_submodule(layer).register_forward_hook(lambda _module, _inputs, output: outputs.append(output))
    network.double()(images)
    hook.remove()
    rows = outputs[0]
    (gradient,) = torch.autograd.grad(rows[:, :, rows.shape[2] // 2].sum(), images)
    seen = gradient.abs().sum((0, 1, 3)).nonzero()
    return int(seen.max() - seen.min()) + 1


def longest_path(network: nn.Module, kinds: tuple[type[nn.Module], ...]) -> int:
    """The depth of a network: the largest number of layers of these kinds on a path from input to output."""
    depth: dict[fx.Node, int] = {}
    for node, module in _nodes(network):
        before = max((depth[source] for source in node.all_input_nodes), default=0)
        depth[node] = before + isinstance(module, kinds)
    return max(depth.values())


class _Tracer(fx.Tracer):
    """Traces through all modules except the layers that this module knows."""

    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        return isinstance(module, POOLS) or super().is_leaf_module(module, name)


def _nodes(network: nn.Module) -> Iterator[tuple[fx.Node, nn.Module | None]]:
    for node in _Tracer().trace(network).nodes:
        yield node, network.get_submodule(str(node.target)) if node.op == "call_module" else None


def _side(value: int | tuple[int, ...] | str) -> int:
    return value if isinstance(value, int) else int(value[0])
