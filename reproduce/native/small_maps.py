"""Convolutions on CPUs whose gradients are computed as one matrix product for each tap of the kernel.

oneDNN computes such gradients slowly, as of 3.12. In float32 on small maps, those of the weights of a 3x3 kernel take
twice as long as the products on a 4x4 map, and all gradients take five times as long on a 2x2 map, since the products
leave out what meets padding alone. In bfloat16 on a CPU with AMX, those of the weights take 1.2 (at 224 pixels) to 5
times as long (at 32 pixels) in the network's 1x1 convolutions, and 2 to 10 times as long in wide 3x3 kernels on maps of
up to 4x4. At 32 pixels most layers of GoogLeNet have such maps, at 224 pixels those of stage 5.
"""

from __future__ import annotations

from functools import cache
from itertools import product
from math import inf
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.nn.grad import conv2d_input

from reproduce.execution.precision import resolve_precision


class _Limits(NamedTuple):
    """Where products are faster, for maps of one type. A single tap is that of a 1x1 kernel, or of a 1x1 map."""

    reach: float
    """Side of the map times side of the kernel up to which they are for the gradient of the weights."""
    reach_of_single: float
    """The same where there is a single tap."""
    channels: int
    """Input times output channels from which they are, where there are several taps. Fewer are not worth the calls."""
    side: int
    """Side of the map up to which they are also for the output and for the gradient of the input."""
    channels_of_output: int
    """Input times output channels from which they are for these, where there are several taps."""
    side_of_1x1: float
    """Side of the map up to which they are for the gradient of the input of a 1x1 kernel."""


LIMITS = {
    torch.float32: _Limits(
        reach=21, reach_of_single=21, channels=2**11, side=3, channels_of_output=2**14, side_of_1x1=3
    ),
    torch.bfloat16: _Limits(
        reach=12, reach_of_single=inf, channels=2**13, side=3, channels_of_output=2**62, side_of_1x1=inf
    ),
}
"""The limits by the type of the maps, as measured on AMD EPYC (float32) and on Intel Xeon with AMX (bfloat16)."""


def pays(x: Tensor, weight: Tensor) -> bool:
    """Whether `convolve` supports a convolution of stride 1 and has faster gradients than torch's.

    Args:
        x: Maps [N, C, H, W].
        weight: Kernels [O, C, k, k], k odd.
    """
    if type(x) is not Tensor or x.device.type != "cpu" or torch.compiler.is_compiling():
        return False
    limits = _limits().get(_computed_in(x))
    if limits is None or not (x.dtype is weight.dtype or torch.is_autocast_enabled("cpu")):
        return False
    reach = max(x.shape[2:]) * weight.shape[-1]
    if _is_single(x, weight):
        return reach <= limits.reach_of_single
    return reach <= limits.reach and weight.shape[0] * weight.shape[1] >= limits.channels


def convolve(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Convolve maps with stride 1 and zero padding of `k // 2` on each side.

    Output and gradients are those of `F.conv2d` up to rounding, autocast included. The call is fastest with both
    tensors in channels_last.

    Args:
        x: Maps [N, C, H, W].
        weight: Kernels [O, C, k, k], k odd.
        bias: Numbers [O] that are added to the maps of the output.

    Returns:
        Maps [N, O, H, W].
    """
    dtype = _computed_in(x)
    given = (None if tensor is None else tensor.to(dtype) for tensor in (x, weight, bias))
    result: Tensor = _Convolution.apply(*given)  # type: ignore[no-untyped-call]
    return result


@cache
def _limits() -> dict[torch.dtype, _Limits]:
    """Return the limits for the types with which this CPU computes. Where bfloat16 is emulated, products are slower."""
    computed = {torch.float32, resolve_precision("auto", torch.device("cpu")).dtype}
    return {dtype: limits for dtype, limits in LIMITS.items() if dtype in computed}


def _computed_in(x: Tensor) -> torch.dtype:
    """Return the type in which torch convolves maps, which autocast may set."""
    return torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype


class _Tap(NamedTuple):
    """A place in the kernel, with the positions of the output that it adds to and those of the input that it reads."""

    place: tuple[int, int]
    output: tuple[slice, slice]
    input: tuple[slice, slice]


def _is_single(x: Tensor, weight: Tensor) -> bool:
    """Whether a single tap of the kernel meets the maps."""
    return weight.shape[-1] == 1 or max(x.shape[2:]) == 1


def _products_all(x: Tensor, weight: Tensor) -> bool:
    """Whether the output and the gradient of the input are computed by products, too."""
    limits = LIMITS[x.dtype]
    wide = _is_single(x, weight) or weight.shape[0] * weight.shape[1] >= limits.channels_of_output
    return wide and max(x.shape[2:]) <= limits.side


@cache
def _taps(rows: int, columns: int, kernel: int) -> tuple[_Tap, ...]:
    """Return the taps that meet a map, and not its padding alone. The first one, in the centre, meets all of it."""
    reach = kernel // 2
    shifts = [(0, 0), *product(range(-reach, reach + 1), repeat=2)]
    return tuple(
        _Tap((reach + down, reach + right), *zip(_overlap(rows, down), _overlap(columns, right), strict=True))
        for down, right in dict.fromkeys(shifts)
        if abs(down) < rows and abs(right) < columns
    )


def _overlap(size: int, shift: int) -> tuple[slice, slice]:
    return slice(max(0, -shift), size - max(0, shift)), slice(max(0, shift), size - max(0, -shift))


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        context.save_for_backward(x, weight)
        if not _products_all(x, weight):
            return F.conv2d(x, weight, bias, padding=weight.shape[-1] // 2)
        output = _output(x, weight)
        return output if bias is None else output.add_(bias.view(-1, 1, 1))

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = context.saved_tensors
        of_input = of_weight = of_bias = None
        if context.needs_input_grad[0]:
            is_small_1x1 = weight.shape[-1] == 1 and max(x.shape[2:]) <= LIMITS[x.dtype].side_of_1x1
            if is_small_1x1 or _products_all(x, weight):
                of_input = _input_gradient(x, weight, gradient)
            else:
                of_input = conv2d_input(x.shape, weight, gradient, padding=weight.shape[-1] // 2)
        if context.needs_input_grad[1]:
            of_weight = _weight_gradient(x, weight, gradient)
        if context.needs_input_grad[2]:
            of_bias = gradient.sum((0, 2, 3))
        return of_input, of_weight, of_bias


# In [N, H, W, C], the channels at the positions of a tap are the rows of a matrix.


def _output(x: Tensor, weight: Tensor) -> Tensor:
    maps, kernels = _channels_last(x), _channels_last(weight)
    centre, *others = _taps(*x.shape[2:], weight.shape[-1])
    result = torch.empty(len(x), len(weight), *x.shape[2:], dtype=x.dtype, memory_format=torch.channels_last)
    output = _channels_last(result)
    torch.matmul(maps, kernels[:, *centre.place].T, out=output)
    for place, to, source in others:
        output[:, *to].add_(maps[:, *source] @ kernels[:, *place].T)
    return result  # no view, so that layers may change it in place


def _input_gradient(x: Tensor, weight: Tensor, gradient: Tensor) -> Tensor:
    arriving, kernels = _channels_last(gradient), _channels_last(weight)
    centre, *others = _taps(*x.shape[2:], weight.shape[-1])
    result = arriving @ kernels[:, *centre.place]
    for place, to, source in others:
        result[:, *source].add_(arriving[:, *to] @ kernels[:, *place])
    return result.permute(0, 3, 1, 2)


def _weight_gradient(x: Tensor, weight: Tensor, gradient: Tensor) -> Tensor:
    maps, arriving, kernels = _channels_last(x), _channels_last(gradient), _channels_last(weight)
    taps = _taps(*x.shape[2:], weight.shape[-1])
    result = torch.empty_like(kernels) if len(taps) == weight.shape[-1] ** 2 else torch.zeros_like(kernels)
    for place, to, source in taps:
        torch.mm(arriving[:, *to].flatten(0, 2).T, maps[:, *source].flatten(0, 2), out=result[:, *place])
    return result.permute(0, 3, 1, 2)


def _channels_last(tensor: Tensor) -> Tensor:
    """View [N, C, H, W] as [N, H, W, C]."""
    return tensor.permute(0, 2, 3, 1)
