"""Max pooling, and batch normalisation with ReLU, on CPUs in bfloat16 by kernels.c; torch's everywhere else.

With torch's these take a quarter of a CPU's training step and of an evaluation. `DEEPER_KERNELS`
is native or torch: takes those; unset: native where they can be built.
"""

from __future__ import annotations

import ctypes
import functools
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from reproduce.native import KERNELS

CHANNELS_LAST = torch.channels_last


class MaxPool(nn.MaxPool2d):
    """torch's max pool in all it computes: the output is equal, the gradient up to the rounding of sums in bfloat16."""

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, C, H', W'], as torch computes H' and W'."""
        square = isinstance(self.kernel_size, int) and isinstance(self.stride, int) and isinstance(self.padding, int)
        if not square or self.dilation != 1 or self.return_indices or not _takes(x):
            result: Tensor = super().forward(x)
            return result
        pooled: Tensor = _MaxPool.apply(x, self.kernel_size, self.stride, self.padding, self.ceil_mode)
        return pooled


def norm_relu(norm: nn.BatchNorm2d, x: Tensor) -> Tensor:
    """relu(norm(x)), [N, C, H, W], which in training also moves the running statistics.

    As torch computes it up to rounding; of that there is less, for what ReLU takes is not rounded to bfloat16 before.
    """
    if not norm.training or not _takes(x) or norm.momentum is None or x.numel() == x.shape[1]:
        return F.relu(norm(x), inplace=True)
    assert norm.num_batches_tracked is not None
    norm.num_batches_tracked.add_(1)
    result: Tensor = _NormReLU.apply(
        x, norm.weight, norm.bias, norm.running_mean, norm.running_var, norm.momentum, norm.eps
    )
    return result


def _takes(x: Tensor) -> bool:
    """Whether the kernels can work on a map: not while torch.fx or torch.compile look at it, for one thing."""
    return (
        type(x) is Tensor
        and x.dtype is torch.bfloat16
        and x.device.type == "cpu"
        and x.is_contiguous(memory_format=CHANNELS_LAST)
        and not torch.compiler.is_compiling()
        and KERNELS.choice().native
    )


class _Pool(ctypes.Structure):
    """A pool's shape, as kernels.c has it."""

    _fields_ = tuple(
        (name, ctypes.c_int64)
        for name in (
            *("images", "height", "width", "channels", "out_height", "out_width"),
            *("kernel", "stride", "padding"),
        )
    )  # fmt: skip


class _MaxPool(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, kernel: int, stride: int, padding: int, ceil_mode: bool) -> Tensor:
        images, channels, height, width = x.shape
        sides = [_pooled(side, kernel, stride, padding, ceil_mode) for side in (height, width)]
        y = torch.empty(images, channels, *sides, dtype=x.dtype, memory_format=CHANNELS_LAST)
        taps = torch.empty_like(y, dtype=torch.uint8) if x.requires_grad else None
        ctx.pool = _Pool(images, height, width, channels, *sides, kernel, stride, padding)
        ctx.save_for_backward(taps)
        ctx.shape = x.shape
        _library().max_pool(ctypes.byref(ctx.pool), *map(_address, (x, y, taps)), torch.get_num_threads())
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
        (taps,) = ctx.saved_tensors
        grad_y = grad_y.contiguous(memory_format=CHANNELS_LAST)
        grad_x = torch.empty(ctx.shape, dtype=grad_y.dtype, memory_format=CHANNELS_LAST)
        _library().max_pool_backward(
            ctypes.byref(ctx.pool), *map(_address, (grad_y, taps, grad_x)), torch.get_num_threads()
        )
        return grad_x, None, None, None, None


class _NormReLU(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        running_mean: Tensor,
        running_variance: Tensor,
        momentum: float,
        eps: float,
    ) -> Tensor:
        channels, pixels = x.shape[1], x.numel() // x.shape[1]
        y = torch.empty_like(x)
        mean, variance, inverse = torch.empty(3, channels)
        _call(
            "norm_relu",
            *map(_address, (x, y)),
            *(ctypes.c_int64(pixels), ctypes.c_int64(channels)),
            *map(_address, (weight, bias)),
            ctypes.c_float(eps),
            *map(_address, (mean, variance, inverse)),
        )
        running_mean.lerp_(mean, momentum)
        running_variance.lerp_(variance * (pixels / (pixels - 1)), momentum)
        ctx.save_for_backward(x, weight, bias, mean, inverse)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias, mean, inverse = ctx.saved_tensors
        channels, pixels = x.shape[1], x.numel() // x.shape[1]
        grad_y = grad_y.contiguous(memory_format=CHANNELS_LAST)
        grad_x = torch.empty_like(x)
        grad_weight, grad_bias = torch.empty(2, channels)
        _call(
            "norm_relu_backward",
            *map(_address, (x, grad_y, grad_x)),
            *(ctypes.c_int64(pixels), ctypes.c_int64(channels)),
            *map(_address, (weight, bias, mean, inverse, grad_weight, grad_bias)),
        )
        return grad_x, grad_weight, grad_bias, None, None, None, None


def _pooled(side: int, kernel: int, stride: int, padding: int, ceil_mode: bool) -> int:
    """The output's side; rounding up makes no window that would begin beyond the input and its padding before."""
    whole, over = divmod(side + 2 * padding - kernel, stride)
    up = ceil_mode and over > 0 and (whole + 1) * stride < side + padding
    return whole + 1 + up


def _call(name: str, *arguments: Any) -> None:
    if getattr(_library(), name)(*arguments, torch.get_num_threads()) != 0:
        raise MemoryError(f"{name}: no memory for its sums")


def _address(tensor: Tensor | None) -> ctypes.c_void_p:
    return ctypes.c_void_p(None if tensor is None else tensor.data_ptr())


@functools.cache
def _library() -> ctypes.CDLL:
    library = KERNELS.library()
    library.max_pool.restype = library.max_pool_backward.restype = None
    return library
