"""Depth and receptive fields of a network, from its graph and from gradients.

`receptive_fields` and `longest_path` trace the network with torch.fx and compute nothing. Control flow is traced as it
is in the network's current mode: in evaluation mode, auxiliary classifiers are not part of the graph.
`receptive_field_by_gradient` runs the network on a random image.
"""

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
    """The range of input pixels, along one dimension, on which each unit of a layer depends.

    Unit i depends on the pixels from `i * jump + first` to `i * jump + last`, both included.
    """

    jump: int = 1
    """Distance in pixels between the fields of neighbouring units."""
    first: int = 0
    """Index of the first pixel in the field of unit 0. It is negative if the field reaches into the padding."""
    last: int = 0
    """Index of the last pixel in the field of unit 0."""

    @property
    def size(self) -> int:
        """Side of the field in pixels."""
        return self.last - self.first + 1

    def through(self, kernel: int, stride: int, padding: int) -> ReceptiveField:
        """Compute the receptive field of a convolution or pool whose input units have this field.

        Args:
            kernel: Side of the layer's kernel. Dilation is not supported.
            stride: Stride of the layer.
            padding: Padding of the layer on each side.
        """
        first = self.first - padding * self.jump
        return ReceptiveField(self.jump * stride, first, first + self.size - 1 + (kernel - 1) * self.jump)


def receptive_fields(network: nn.Module) -> dict[str, ReceptiveField]:
    """Compute the receptive field of every convolution, max pool and concatenation from the network's graph.

    The field of a layer follows from its kernel, stride and padding and from the field of its input. The field of a
    concatenation is the union of its branches' fields. Average pools, linear layers and the layers after them are left
    out. Kernels have to be square and not dilated.

    Args:
        network: A network that torch.fx can trace.

    Returns:
        The fields by the dotted name of the layer, in the order in which the layers run. A concatenation has the name
        of the module that contains it.
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
    """Measure the side of a layer's receptive field in pixels, from the gradient of a random image.

    The measured side is the number of image rows from the first to the last one on which the middle row of the layer's
    output depends. It is a lower bound, because each window of a max pool passes its gradient to a single unit. One
    random image nearly always reaches the true size, and the largest result over several seeds is a safer measurement.

    The network runs in float64, because few paths reach the edge of the field. It is converted in place and stays in
    float64.

    Args:
        network: A network that takes images [N, 3, H, W]. Its mode is not changed, and its output is ignored.
        layer: Dotted name of the layer, whose output is [N, C, H', W'].
        length: Height of the image in pixels; its width is 32. The height has to exceed the field.
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
    """Compute the depth of a network: the largest number of layers of the given kinds on any path through its graph.

    Args:
        network: A network that torch.fx can trace, in the mode (training or evaluation) whose graph is meant.
        kinds: Classes of the layers that are counted, for example `WITH_PARAMETERS`. Subclasses count as well.
    """
    depth: dict[fx.Node, int] = {}
    for node, module in _nodes(network):
        before = max((depth[source] for source in node.all_input_nodes), default=0)
        depth[node] = before + isinstance(module, kinds)
    return max(depth.values())


class _Tracer(fx.Tracer):
    """Records our convolutions and pools, like torch's own layers, as single nodes, and traces into other modules."""

    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        return isinstance(module, (nn.Conv2d, *POOLS)) or super().is_leaf_module(module, name)


def _nodes(network: nn.Module) -> Iterator[tuple[fx.Node, nn.Module | None]]:
    for node in _Tracer().trace(network).nodes:
        yield node, network.get_submodule(str(node.target)) if node.op == "call_module" else None


def _side(value: int | tuple[int, ...] | str) -> int:
    return value if isinstance(value, int) else int(value[0])
