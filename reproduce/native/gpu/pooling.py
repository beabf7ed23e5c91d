"""Max pooling of maps in channels_last on a GPU, forward and backward, in Triton.

For the backward pass, one byte for each output tells which pixel of its window was the largest; torch keeps eight. Each
input pixel gathers its gradient from the windows that cover it, in a fixed order and in float32. It is written
once, whereas torch fills the gradient with zeros and adds to it.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from reproduce.native.backend import Window, strided
from reproduce.native.gpu.tiles import LARGEST, tile


def max_pool(x: Tensor, window: Window) -> Tensor:
    """Pool maps, as `torch.nn.functional.max_pool2d`.

    As with torch, NaN is the largest value, and the gradient goes to the first of equal values and to the last NaN.

    Args:
        x: Maps [N, C, H, W] in channels_last with fewer than 2^31 elements.
        window: The window, whose side is at most 15 so that its places fit into a byte.

    Returns:
        Maps [N, C, H', W'] in channels_last.
    """
    pooled: Tensor = _TritonMaxPool.apply(x, window)
    return pooled


class _TritonMaxPool(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, window: Window) -> Tensor:
        images, channels, height, width = x.shape
        out_height, out_width = window.pooled(height), window.pooled(width)
        y = torch.empty(
            (images, channels, out_height, out_width),
            dtype=x.dtype,
            device=x.device,
            memory_format=torch.channels_last,
        )
        taps = torch.empty_like(y, dtype=torch.uint8) if x.requires_grad else None
        ctx.window, ctx.shape = window, x.shape
        ctx.save_for_backward(taps)
        size, pixels = tile(channels), images * out_height * out_width
        with torch.cuda.device_of(x):
            _pool[size.grid(pixels, channels)](
                *(x, y, y if taps is None else taps, pixels, channels, height, width, out_height, out_width),
                *(window.kernel, window.stride, window.padding, taps is not None, size.pixels, size.channels),
            )
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor, None]:
        (taps,) = ctx.saved_tensors
        window: Window = ctx.window
        images, channels, height, width = ctx.shape
        grad_x = torch.empty(ctx.shape, dtype=grad_y.dtype, device=grad_y.device, memory_format=torch.channels_last)
        grad_y, step = strided(grad_y, LARGEST)
        size, pixels = tile(channels), images * height * width
        with torch.cuda.device_of(grad_y):
            _pool_backward[size.grid(pixels, channels)](
                *(grad_y, step, taps, grad_x, pixels, channels, height, width, *taps.shape[2:]),
                *(window.kernel, window.stride, window.padding, size.pixels, size.channels),
            )
        return grad_x, None


@triton.jit(do_not_specialize=["pixels", "height", "width", "out_height", "out_width"])
def _pool(
    x,
    y,
    taps,
    pixels,
    channels,
    height,
    width,
    out_height,
    out_width,
    KERNEL: tl.constexpr,
    STRIDE: tl.constexpr,
    PADDING: tl.constexpr,
    KEEP_TAPS: tl.constexpr,
    PIXELS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """Write the maximum of each window and, with KEEP_TAPS, which of its pixels that is."""
    pixel = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)
    channel = (tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS))[None, :]
    inside = (pixel < pixels)[:, None] & (channel < channels)
    image = pixel // (out_width * out_height)
    top = pixel // out_width % out_height * STRIDE - PADDING
    left = pixel % out_width * STRIDE - PADDING
    best = tl.full((PIXELS, CHANNELS), float("-inf"), tl.float32)
    first = tl.maximum(-top, 0) * KERNEL + tl.maximum(-left, 0)  # the first pixel that is not padding
    tap = first[:, None] + tl.zeros((PIXELS, CHANNELS), tl.int32)
    for down in tl.static_range(KERNEL):
        for across in tl.static_range(KERNEL):
            row, column = top + down, left + across
            valid = (row >= 0) & (row < height) & (column >= 0) & (column < width)
            place = (((image * height + row) * width + column) * channels)[:, None] + channel
            value = tl.load(x + place, mask=inside & valid[:, None], other=float("-inf")).to(tl.float32)
            larger = (value > best) | (value != value)  # as torch: the first of equals, the last NaN
            best = tl.where(larger, value, best)
            tap = tl.where(larger, down * KERNEL + across, tap)
    place = (pixel * channels)[:, None] + channel
    tl.store(y + place, best.to(y.dtype.element_ty), mask=inside)
    if KEEP_TAPS:
        tl.store(taps + place, tap.to(tl.uint8), mask=inside)


@triton.jit(do_not_specialize=["pixels", "height", "width", "out_height", "out_width"])
def _pool_backward(
    grad_y,
    grad_step,
    taps,
    grad_x,
    pixels,
    channels,
    height,
    width,
    out_height,
    out_width,
    KERNEL: tl.constexpr,
    STRIDE: tl.constexpr,
    PADDING: tl.constexpr,
    PIXELS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """Write, for each input pixel, the sum of the gradients of the windows whose maximum it is."""
    pixel = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)
    channel = (tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS))[None, :]
    inside = (pixel < pixels)[:, None] & (channel < channels)
    image = pixel // (width * height)
    i = pixel // width % height + PADDING
    j = pixel % width + PADDING
    total = tl.zeros((PIXELS, CHANNELS), tl.float32)
    for a in tl.static_range((KERNEL + STRIDE - 1) // STRIDE):
        for b in tl.static_range((KERNEL + STRIDE - 1) // STRIDE):
            down, across = i % STRIDE + a * STRIDE, j % STRIDE + b * STRIDE
            row, column = i // STRIDE - a, j // STRIDE - b
            valid = (down < KERNEL) & (row >= 0) & (row < out_height)
            valid = valid & (across < KERNEL) & (column >= 0) & (column < out_width)
            mask = inside & valid[:, None]
            window = (image * out_height + row) * out_width + column
            tap = tl.load(taps + (window * channels)[:, None] + channel, mask=mask, other=255)
            grad = tl.load(grad_y + (window * grad_step)[:, None] + channel, mask=mask, other=0.0).to(tl.float32)
            total += tl.where(tap.to(tl.int32) == (down * KERNEL + across)[:, None], grad, 0.0)
    place = (pixel * channels)[:, None] + channel
    tl.store(grad_x + place, total.to(grad_x.dtype.element_ty), mask=inside)
