"""Max pooling, batch normalisation with ReLU, and sums of maps, by kernels.c: those for CPUs, in bfloat16 and float32.

torch's own implementations take a quarter of the time of a training step in bfloat16, and a sixth in float32, on a CPU.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from reproduce.native import KERNELS
from reproduce.native.backend import Backend, Window, strided

TYPES = {torch.bfloat16: "bf16", torch.float32: "float32"}
"""Types of maps, with the end of the names of their functions in kernels.c."""
CHANNELS_LAST = torch.channels_last
LARGEST = 2**62
"""Elements from which a tensor is too large."""


def max_pool(x: Tensor, window: Window) -> Tensor:
    """Pool maps. The output equals torch's; the gradient may differ by the rounding of sums."""
    pooled: Tensor = _MaxPool.apply(x, window)
    return pooled


def norm_relu(norm: nn.BatchNorm2d, x: Tensor) -> Tensor:
    """Compute relu(norm(x)), and in training mode update the running statistics.

    The result differs from torch's by rounding; in bfloat16 it rounds less often, since ReLU's input is not rounded.

    Raises:
        MemoryError: There is no memory for the kernels' sums.
    """
    if norm.training:
        assert norm.num_batches_tracked is not None
        norm.num_batches_tracked.add_(1)
    result: Tensor = _NormReLU.apply(
        x, norm.weight, norm.bias, norm.running_mean, norm.running_var, norm.momentum, norm.eps, norm.training
    )
    return result


def sum_maps(maps: Sequence[Tensor]) -> Tensor:
    """Add up two to `MOST_MAPS` maps of one type in their order, in float32, and round once."""
    first = maps[0]
    channels, pixels = first.shape[1], first.numel() // first.shape[1]
    total = torch.empty(first.shape, dtype=first.dtype, memory_format=CHANNELS_LAST)
    read = [strided(given, LARGEST) for given in maps]
    _function("sum_maps", total)(
        (ctypes.c_void_p * len(read))(*(given.data_ptr() for given, _ in read)),
        (ctypes.c_int64 * len(read))(*(step for _, step in read)),
        *(len(read), _maps(total), pixels, channels, torch.get_num_threads()),
    )
    return total


C = Backend(
    name="C",
    dtypes=tuple(TYPES),
    largest_window=16,  # kernels.c stores the place of a window's maximum in a byte
    largest_map=LARGEST,
    evaluates=True,
    by_map=False,
    implementation=KERNELS.implementation,
    max_pool=max_pool,
    norm_relu=norm_relu,
    sum_maps=sum_maps,
    on_request=(torch.float32,),  # nobody has shown yet that a whole step gains by them
)
"""The kernels for CPUs."""


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
    def forward(ctx: Any, x: Tensor, window: Window) -> Tensor:
        images, channels, height, width = x.shape
        sides = [window.pooled(side) for side in (height, width)]
        y = torch.empty(images, channels, *sides, dtype=x.dtype, memory_format=CHANNELS_LAST)
        taps = torch.empty_like(y, dtype=torch.uint8) if x.requires_grad else None
        ctx.pool = _Pool(images, height, width, channels, *sides, window.kernel, window.stride, window.padding)
        ctx.save_for_backward(taps)
        ctx.shape = x.shape
        _function("max_pool", x)(ctx.pool, _maps(x), _maps(y), _bytes(taps), torch.get_num_threads())
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
        (taps,) = ctx.saved_tensors
        grad_y, step = strided(grad_y, LARGEST)
        grad_x = torch.empty(ctx.shape, dtype=grad_y.dtype, memory_format=CHANNELS_LAST)
        backward = _function("max_pool_backward", grad_y)
        backward(ctx.pool, grad_y.data_ptr(), step, _bytes(taps), _maps(grad_x), torch.get_num_threads())
        return grad_x, None


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
        training: bool,
    ) -> Tensor:
        channels, pixels = x.shape[1], x.numel() // x.shape[1]
        y = torch.empty_like(x)
        mean, variance, inverse = torch.empty(3, channels, dtype=torch.float32)
        if not training:
            mean, variance = running_mean.clone(), running_variance
        _call(
            _function("norm_relu", x),
            *(_maps(x), _maps(y), pixels, channels, _reals(weight), _reals(bias), eps, training),
            *(_reals(mean), _reals(variance), _reals(inverse)),
        )
        if training:
            running_mean.lerp_(mean, momentum)
            running_variance.lerp_(variance * (pixels / (pixels - 1)), momentum)
        ctx.save_for_backward(x, weight, bias, mean, inverse)
        ctx.training = training
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias, mean, inverse = ctx.saved_tensors
        channels, pixels = x.shape[1], x.numel() // x.shape[1]
        grad_y, step = strided(grad_y, LARGEST)
        grad_x = torch.empty_like(x)
        grad_weight, grad_bias = torch.empty(2, channels, dtype=torch.float32)
        _call(
            _function("norm_relu_backward", x),
            *(_maps(x), grad_y.data_ptr(), step, _maps(grad_x), pixels, channels),
            *(_reals(weight), _reals(bias), ctx.training),
            *(_reals(mean), _reals(inverse), _reals(grad_weight), _reals(grad_bias)),
        )
        return grad_x, grad_weight, grad_bias, None, None, None, None, None


def _call(function: Callable[..., int], *arguments: Any) -> None:
    if function(*arguments, torch.get_num_threads()) != 0:
        raise MemoryError("no memory for the sums of a normalisation")


def _maps(tensor: Tensor) -> int:
    """Return the address of maps in NHWC order. Raises `TypeError` for other tensors."""
    if tensor.dtype not in TYPES or not tensor.is_contiguous(memory_format=CHANNELS_LAST):
        raise TypeError(f"{tensor.dtype} {tuple(tensor.shape)}: the kernels take bf16 and float32 in channels_last")
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


def _function(name: str, maps: Tensor) -> Callable[..., Any]:
    """Return a function of kernels.c for the type of some maps."""
    function: Callable[..., Any] = getattr(_library(), f"{name}_{TYPES[maps.dtype]}")
    return function


def _library() -> ctypes.CDLL:
    return declared(KERNELS.load())


@functools.cache
def declared(library: ctypes.CDLL) -> ctypes.CDLL:
    """Declare to ctypes the argument and result types of the functions in kernels.c.

    Args:
        library: The loaded library, which is modified.

    Returns:
        The same library.
    """
    pool, tensor, number = ctypes.POINTER(_Pool), ctypes.c_void_p, ctypes.c_int64
    flag = threads = ctypes.c_int
    norm = (tensor, tensor, number, number, tensor, tensor, ctypes.c_float, flag, *[tensor] * 3, threads)
    norm_backward = (tensor, tensor, number, tensor, number, number, tensor, tensor, flag, *[tensor] * 4, threads)
    several = (ctypes.POINTER(tensor), ctypes.POINTER(number), ctypes.c_int, tensor, number, number, threads)
    for name, arguments, result in (
        ("max_pool", (pool, *[tensor] * 3, threads), None),
        ("max_pool_backward", (pool, tensor, number, tensor, tensor, threads), None),
        ("sum_maps", several, None),
        ("norm_relu", norm, ctypes.c_int),
        ("norm_relu_backward", norm_backward, ctypes.c_int),
    ):
        for suffix in TYPES.values():
            function = getattr(library, f"{name}_{suffix}")
            function.argtypes, function.restype = arguments, result
    return library
