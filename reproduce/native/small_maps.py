"""Convolutions of small maps in float32 on CPUs, computed in part as one matrix product for each tap of the kernel.

oneDNN computes gradients of such convolutions slowly, as of 3.12: those of the weights of a 3x3 kernel take twice as
long as the products on a 4x4 map, and all gradients take five times as long on a 2x2 map, since the products leave out
what meets padding alone. At 32 pixels most layers of GoogLeNet have such maps, at 224 pixels those of stage 5.
"""

from __future__ import annotations

from functools import cache
from itertools import product
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.nn.grad import conv2d_input

LARGEST_REACH = 21
"""Side of the map times side of the kernel up to which products are faster for the gradient of the weights."""
LEAST_CHANNELS = 2**11
"""Input times output channels from which they are, where there are several taps: fewer do not outweigh the calls."""
LARGEST_SIDE = 3
"""Side of the map up to which products are also faster for the output and for the gradient of the input."""
LEAST_CHANNELS_OF_OUTPUT = 2**14
"""Input times output channels from which they are, where there are several taps."""


def pays(x: Tensor, weight: Tensor) -> bool:
    """Whether `convolve` supports a convolution of stride 1 and has faster gradients than torch's.

    Args:
        x: Maps [N, C, H, W].
        weight: Kernels [O, C, k, k], k odd.
    """
    return (
        type(x) is Tensor
        and x.device.type == "cpu"
        and x.dtype is weight.dtype is torch.float32
        and max(x.shape[2:]) * weight.shape[-1] <= LARGEST_REACH
        and _is_wide(x, weight, LEAST_CHANNELS)
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
    )


def convolve(x: Tensor, weight: Tensor) -> Tensor:
    """Convolve maps with stride 1, zero padding of `k // 2` on each side, and no bias.

    Output and gradients are those of `F.conv2d` up to rounding. The call is fastest with both tensors in channels_last.

    Args:
        x: Maps [N, C, H, W].
        weight: Kernels [O, C, k, k], k odd.

    Returns:
        Maps [N, O, H, W].
    """
    result: Tensor = _Convolution.apply(x, weight)  # type: ignore[no-untyped-call]
    return result


class _Tap(NamedTuple):
    """A place in the kernel, with the positions of the output that it adds to and those of the input that it reads."""

    place: tuple[int, int]
    output: tuple[slice, slice]
    input: tuple[slice, slice]


def _is_wide(x: Tensor, weight: Tensor, channels: int) -> bool:
    """Whether there is a single tap, or at least so many input times output channels."""
    single = weight.shape[-1] == 1 or max(x.shape[2:]) == 1
    return single or weight.shape[0] * weight.shape[1] >= channels


def _products_all(x: Tensor, weight: Tensor) -> bool:
    return max(x.shape[2:]) <= LARGEST_SIDE and _is_wide(x, weight, LEAST_CHANNELS_OF_OUTPUT)


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
    def forward(context: Any, x: Tensor, weight: Tensor) -> Tensor:
        context.save_for_backward(x, weight)
        if _products_all(x, weight):
            return _output(x, weight)
        return F.conv2d(x, weight, padding=weight.shape[-1] // 2)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, weight = context.saved_tensors
        of_input = of_weight = None
        if context.needs_input_grad[0]:
            if _products_all(x, weight):
                of_input = _input_gradient(x, weight, gradient)
            else:
                of_input = conv2d_input(x.shape, weight, gradient, padding=weight.shape[-1] // 2)
        if context.needs_input_grad[1]:
            of_weight = _weight_gradient(x, weight, gradient)
        return of_input, of_weight


# In [N, H, W, C], the channels at the positions of a tap are the rows of a matrix.


def _output(x: Tensor, weight: Tensor) -> Tensor:
    maps, kernels = _channels_last(x), _channels_last(weight)
    centre, *others = _taps(*x.shape[2:], weight.shape[-1])
    output = maps @ kernels[:, *centre.place].T
    for place, to, source in others:
        output[:, *to].add_(maps[:, *source] @ kernels[:, *place].T)
    return output.permute(0, 3, 1, 2)


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
