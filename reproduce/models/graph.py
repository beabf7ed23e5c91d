"""What follows from a network's graph alone: depth and receptive fields. Traced with torch.fx, nothing is computed."""

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
    """The input pixels, along one side, that a layer's units depend on: unit i on i * jump + low to i * jump + high."""

    jump: int = 1
    low: int = 0
    """Of unit 0; negative where it reaches into the padding."""
    high: int = 0

    @property
    def size(self) -> int:
        return self.high - self.low + 1

    def through(self, kernel: int, stride: int, padding: int) -> ReceptiveField:
        """The field of a layer whose input has this one."""
        low = self.low - padding * self.jump
        return ReceptiveField(self.jump * stride, low, low + self.size - 1 + (kernel - 1) * self.jump)


def receptive_fields(network: nn.Module) -> dict[str, ReceptiveField]:
    """The field of every convolution, max pool and concatenation (named like its module), in the order they run.

    The recursion over kernel, stride and padding; where branches meet, what any of them sees. Layers that see the
    whole map (global pooling, linear) have none, nor has what follows them. Kernels are taken to be square.
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
            joined = ReceptiveField(before[0].jump, min(f.low for f in before), max(f.high for f in before))
            named[list(node.meta["nn_module_stack"])[-1]] = fields[node] = joined
        elif isinstance(module, POINTWISE) or node.target is F.relu:
            fields[node] = before[0]
    return named


def receptive_field_by_gradient(network: nn.Module, layer: str, *, length: int, seed: int) -> int:
    """Size of the field of `layer`, found from which rows of random images have a gradient.

    `network` maps [N, 3, H, W]; its output is not looked at. `length` is the images' height in pixels and must leave
    room on both sides of the field. A max pool hands its gradient to one unit alone, so the size is a lower bound
    that random weights of signed values nearly always attain; take the largest over seeds. In float64: the rim of the
    field is reached by few paths.
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
    """The most layers of `kinds` that lie one after another between input and output: the depth."""
    depth: dict[fx.Node, int] = {}
    for node, module in _nodes(network):
        before = max((depth[source] for source in node.all_input_nodes), default=0)
        depth[node] = before + isinstance(module, kinds)
    return max(depth.values())


class _Tracer(fx.Tracer):
    """Looks into every module but the layers that this file reckons with."""

    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        return isinstance(module, POOLS) or super().is_leaf_module(module, name)


def _nodes(network: nn.Module) -> Iterator[tuple[fx.Node, nn.Module | None]]:
    for node in _Tracer().trace(network).nodes:
        yield node, network.get_submodule(str(node.target)) if node.op == "call_module" else None


def _side(value: int | tuple[int, ...] | str) -> int:
    return value if isinstance(value, int) else int(value[0])
