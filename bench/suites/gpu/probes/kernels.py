"""Measures each kernel of ours against torch's: max pools and normalisation with ReLU, forward and backward.

On GPUs these are the kernels in Triton, on CPUs those in C.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from statistics import median

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench.suites.gpu.probe import MissingRequirementError, ProbeContext, Reporter, Value
from bench.suites.harness.ceilings import synchronise
from bench.suites.step.inputs import port_network
from reproduce.execution.kernel_checks import Layer, check_kernels, layer_uses
from reproduce.execution.precision import resolve_precision
from reproduce.execution.process import prepare_process
from reproduce.models.inception import Inception
from reproduce.native import KERNELS
from reproduce.native.kernels import BACKENDS, MaxPool, fan_out, norm_relu

REPETITIONS = 7
OURS, TORCHS, RATIO, LAYERS = "ours, ms", "torch's, ms", "torch's / ours", "layers"
PARTS = {MaxPool: "max pools", nn.BatchNorm2d: "normalisation with ReLU", Inception: "sums of branches' gradients"}


def kernels(context: ProbeContext, reporter: Reporter) -> None:
    """Measure forward and backward of each kind of pool, normalisation and branches, by our kernels and by torch's.

    The two take turns. A table has each kind, for one layer, and a second one the sums over all layers of a step. Kinds
    that disagree with torch's are checked to be none, and are named.

    Raises:
        MissingRequirementError: The device has no kernels of ours for its precision, or this process does without them.
    """
    os.environ.setdefault(KERNELS.variable, "native")  # of this process, which measures them before others use them
    device, network, batch = context.device, port_network(context.size.side), context.size.batch
    prepare_process(device, context.threads)
    backend, dtype = BACKENDS[device.type], resolve_precision("auto", device).dtype
    found = backend.implementation()
    if not found.native or dtype not in backend.dtypes:
        raise MissingRequirementError(f"no kernels of ours in {str(dtype).removeprefix('torch.')}: {found}")
    reporter.progress("comparing with torch's")
    dropped = check_kernels(network, (context.size.side,), device, dtype)
    reporter.check("kinds of layers whose kernel disagrees with torch's", len(dropped), at_most=0)
    for phrase in dropped:
        reporter.note(f"torch computes {phrase}")
    uses = layer_uses(network, context.size.side)
    rows: dict[str, dict[str, Value]] = {}
    sums = {part: {OURS: 0.0, TORCHS: 0.0} for part in PARTS.values()}
    for index, (layer, shape, count) in enumerate(uses):
        name = f"{_name(layer)}, {' x '.join(map(str, shape))}"
        reporter.progress(f"{index + 1} of {len(uses)}: {name}")
        x = torch.randn(batch, *shape, device=device).to(dtype=dtype, memory_format=torch.channels_last)
        times = _milliseconds(layer, x)
        rows[name] = {LAYERS: float(count), **times, RATIO: times[TORCHS] / times[OURS]}
        for column, value in times.items():
            sums[PARTS[type(layer)]][column] += count * value
        title = f"{context.size.side} px, batch {batch}, {str(dtype).removeprefix('torch.')}"
        reporter.table(f"forward and backward of one layer, {title}; medians of {REPETITIONS}", rows)
    totals = {part: {**times, RATIO: times[TORCHS] / times[OURS]} for part, times in sums.items()}
    reporter.table(f"all layers of a step, {title}", totals)


def _name(layer: Layer) -> str:
    if isinstance(layer, MaxPool):
        return f"max pool {layer.kernel_size}, stride {layer.stride}"
    return f"{len(layer.branch_channels)} branches" if isinstance(layer, Inception) else "normalisation"


def _milliseconds(layer: Layer, x: Tensor) -> dict[str, float]:
    """Measure one layer by both, in turns; the first turn warms up."""
    implementations = {OURS: _ours(layer, x), TORCHS: _torchs(layer, x)}
    grad = torch.ones_like(implementations[TORCHS](x))
    times: dict[str, list[float]] = {name: [] for name in implementations}
    for _ in range(REPETITIONS + 1):
        for name, compute in implementations.items():
            leaf = x.detach().requires_grad_()
            synchronise(x.device)
            start = time.perf_counter()
            compute(leaf).backward(grad)  # type: ignore[no-untyped-call]
            synchronise(x.device)
            times[name].append(1e3 * (time.perf_counter() - start))
    return {name: median(values[1:]) for name, values in times.items()}


def _ours(layer: Layer, x: Tensor) -> Callable[[Tensor], Tensor]:
    if isinstance(layer, MaxPool):
        return layer
    if isinstance(layer, Inception):  # what differs is the sum of the gradients
        return lambda maps: torch.cat(tuple(fan_out(maps, len(layer.branch_channels))), dim=1)
    norm = nn.BatchNorm2d(layer.num_features, eps=layer.eps, device=x.device)
    return lambda maps: norm_relu(norm, maps)


def _torchs(layer: Layer, x: Tensor) -> Callable[[Tensor], Tensor]:
    if isinstance(layer, MaxPool):
        return lambda maps: F.max_pool2d(
            maps, layer.kernel_size, layer.stride, layer.padding, ceil_mode=layer.ceil_mode
        )
    if isinstance(layer, Inception):
        return lambda maps: torch.cat([maps] * len(layer.branch_channels), dim=1)
    norm = nn.BatchNorm2d(layer.num_features, eps=layer.eps, device=x.device)
    return lambda maps: F.relu(norm(maps), inplace=True)
