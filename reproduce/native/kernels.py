"""Max pooling, and batch normalisation with ReLU: by kernels.c in bfloat16 on CPUs, and by torch otherwise.

torch's own implementations take a quarter of the time of a training step, and of an evaluation, on a CPU. The
environment variable `DEEPER_KERNELS` selects `native` or `torch`. If it is unset, the kernels are used wherever they
can be built.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from reproduce.native import KERNELS

CHANNELS_LAST = torch.channels_last
LARGEST_KERNEL = 16  # kernels.c stores the place of a window's maximum in a byte


class MaxPool(nn.MaxPool2d):
    """A replacement for `nn.MaxPool2d` that is faster in bfloat16 on CPUs.

    Its output equals that of `nn.MaxPool2d`. Its gradient may differ by the rounding of sums in bfloat16. It uses
    torch's implementation for inputs and parameters that kernels.c does not support, and while torch.compile or
    torch.fx traces it.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Pool maps [N, C, H, W] to [N, C, H', W'], with the output size of `nn.MaxPool2d`."""
        if not _can_take(x) or not self._has_kernel(x):
            result: Tensor = super().forward(x)
            return result
        pooled: Tensor = _MaxPool.apply(x, self.kernel_size, self.stride, self.padding, self.ceil_mode)
        return pooled

    def _has_kernel(self, x: Tensor) -> bool:
        """Whether kernels.c supports this pool on maps `x`: a square window that fits, no dilation, no indices."""
        kernel, stride, padding = self.kernel_size, self.stride, self.padding
        return (
            isinstance(kernel, int)
            and isinstance(stride, int)
            and isinstance(padding, int)
            and 1 <= kernel <= min(LARGEST_KERNEL, min(x.shape[2:]) + 2 * padding)
            and stride >= 1
            and 0 <= 2 * padding <= kernel
            and self.dilation == 1
            and not self.return_indices
        )


def norm_relu(norm: nn.BatchNorm2d, x: Tensor) -> Tensor:
    """Compute relu(norm(x)), and in training mode also update the running statistics of `norm`.

    In training, kernels.c computes it for bfloat16 maps in channels_last on a CPU, where it is available and supports
    `norm`. Its result differs from torch's by
    rounding; it rounds less often, since ReLU's input is not rounded to bfloat16. In all other cases torch computes it.

    Args:
        norm: The normalisation. Its mode, training or evaluation, applies.
        x: Maps [N, C, H, W], which are not modified.

    Returns:
        Maps [N, C, H, W] of the type of `x`.

    Raises:
        MemoryError: There is no memory for the kernels' sums.
    """
    if not norm.training or not _can_take(x) or not _has_norm_kernel(norm, x):
        return F.relu(norm(x), inplace=True)
    assert norm.num_batches_tracked is not None
    norm.num_batches_tracked.add_(1)
    result: Tensor = _NormReLU.apply(
        x, norm.weight, norm.bias, norm.running_mean, norm.running_var, norm.momentum, norm.eps
    )
    return result


def _can_take(x: Tensor) -> bool:
    """Whether the kernels support a tensor: non-empty bfloat16 maps in channels_last on a CPU, outside of tracing."""
    return (
        type(x) is Tensor
        and x.dim() == 4
        and x.numel() > 0
        and x.dtype is torch.bfloat16
        and x.device.type == "cpu"
        and x.is_contiguous(memory_format=CHANNELS_LAST)
        and not torch.compiler.is_compiling()
        and KERNELS.implementation().native
    )


def _has_norm_kernel(norm: nn.BatchNorm2d, x: Tensor) -> bool:
    """Whether kernels.c supports this normalisation: float32 weights and running averages for each channel of x."""
    channels = x.shape[1]
    tensors = (norm.weight, norm.bias, norm.running_mean, norm.running_var)
    return (
        norm.momentum is not None
        and x.numel() > channels
        and all(
            tensor is not None
            and tensor.dtype is torch.float32
            and tensor.device.type == "cpu"
            and tensor.shape == (channels,)
            and tensor.is_contiguous()
            for tensor in tensors
        )
    )


class _Pool(ctypes.Structure):
    """The struct `Pool` of kernels.c."""

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
        _library().max_pool(ctx.pool, _maps(x), _maps(y), _bytes(taps), torch.get_num_threads())
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
        (taps,) = ctx.saved_tensors
        grad_y = grad_y.contiguous(memory_format=CHANNELS_LAST)
        grad_x = torch.empty(ctx.shape, dtype=grad_y.dtype, memory_format=CHANNELS_LAST)
        _library().max_pool_backward(ctx.pool, _maps(grad_y), _bytes(taps), _maps(grad_x), torch.get_num_threads())
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
        mean, variance, inverse = torch.empty(3, channels, dtype=torch.float32)
        _call(
            _library().norm_relu,
            *(_maps(x), _maps(y), pixels, channels, _reals(weight), _reals(bias), eps),
            *(_reals(mean), _reals(variance), _reals(inverse)),
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
        grad_weight, grad_bias = torch.empty(2, channels, dtype=torch.float32)
        _call(
            _library().norm_relu_backward,
            *(_maps(x), _maps(grad_y), _maps(grad_x), pixels, channels, _reals(weight), _reals(bias)),
            *(_reals(mean), _reals(inverse), _reals(grad_weight), _reals(grad_bias)),
        )
        return grad_x, grad_weight, grad_bias, None, None, None, None


def _pooled(side: int, kernel: int, stride: int, padding: int, ceil_mode: bool) -> int:
    """Compute a side of the output, by the rule of `nn.MaxPool2d`.

    With `ceil_mode` the number of windows is rounded up, except for a window that would begin beyond the input and the
    padding before it.
    """
    whole, remainder = divmod(side + 2 * padding - kernel, stride)
    up = ceil_mode and remainder > 0 and (whole + 1) * stride < side + padding
    return whole + 1 + up


def _call(function: Callable[..., int], *arguments: Any) -> None:
    if function(*arguments, torch.get_num_threads()) != 0:
        raise MemoryError("no memory for the sums of a normalisation")


def _maps(tensor: Tensor) -> int:
    """Return the address of bfloat16 maps in NHWC order. Raises `TypeError` for other tensors."""
    if tensor.dtype is not torch.bfloat16 or not tensor.is_contiguous(memory_format=CHANNELS_LAST):
        raise TypeError(f"{tensor.dtype} {tuple(tensor.shape)}: the kernels take bfloat16 in channels_last")
    return tensor.data_ptr()


def _reals(tensor: Tensor) -> int:
    """Return the address of contiguous float32 numbers. Raises `TypeError` for other tensors."""
    if tensor.dtype is not torch.float32 or not tensor.is_contiguous():
        raise TypeError(f"{tensor.dtype} {tuple(tensor.shape)}: the kernels take contiguous float32")
    return tensor.data_ptr()


def _bytes(tensor: Tensor | None) -> int | None:
    """Return the address of uint8 numbers in NHWC order, or None (NULL) without a tensor."""
    if tensor is None:
        return None
    if tensor.dtype is not torch.uint8 or not tensor.is_contiguous(memory_format=CHANNELS_LAST):
        raise TypeError(f"{tensor.dtype} {tuple(tensor.shape)}: the kernels take uint8 in channels_last")
    return tensor.data_ptr()


@functools.cache
def _library() -> ctypes.CDLL:
    return declared(KERNELS.load())


def declared(library: ctypes.CDLL) -> ctypes.CDLL:
    """Declare to ctypes the argument and result types of the functions in kernels.c.

    Args:
        library: The loaded library, which is modified.

    Returns:
        The same library.
    """
    pool, tensor, number, threads = ctypes.POINTER(_Pool), ctypes.c_void_p, ctypes.c_int64, ctypes.c_int
    library.max_pool.argtypes = (pool, *[tensor] * 3, threads)
    library.max_pool_backward.argtypes = (pool, *[tensor] * 3, threads)
    library.max_pool.restype = library.max_pool_backward.restype = None
    library.norm_relu.argtypes = (
        *(tensor, tensor, number, number, tensor, tensor, ctypes.c_float),
        *([tensor] * 3),
        threads,
    )
    library.norm_relu_backward.argtypes = (*[tensor] * 3, number, number, *[tensor] * 6, threads)
    library.norm_relu.restype = library.norm_relu_backward.restype = ctypes.c_int
    return library
