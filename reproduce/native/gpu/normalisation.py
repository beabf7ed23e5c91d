"""Batch normalisation with ReLU of maps in channels_last on a GPU, forward and backward, in Triton.

Forward, one pass sums and one transforms; backward, one pass sums and one writes the gradient. Both recompute from the
input which values ReLU let pass, so that no other map is kept. All sums are float32. Those of squares are taken around
the mean of each tile and combined by the rule of Chan, Golub and LeVeque ("Updating Formulae and a Pairwise Algorithm
for Computing Sample Variances", 1979), so that a mean that is large beside the spread costs no digits.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from reproduce.native.backend import Room, strided
from reproduce.native.gpu.tiles import LARGEST, Tile, tile

MOST_PROGRAMS = 1024
"""Programs that sum, at most; some eight for each processor of an H100."""
COMBINING = Tile(pixels=128, channels=16)
"""Parts and channels that a program handles at once when it combines the sums of all parts."""


def norm_relu(norm: nn.BatchNorm2d, x: Tensor, out: Tensor | None = None) -> Tensor:
    """Compute relu(norm(x)), and in training mode update the running statistics of `norm`, as torch does.

    Args:
        norm: The normalisation, in training or in evaluation mode, with float32 parameters and running statistics.
        x: Maps [N, C, H, W] in channels_last with fewer than 2^31 elements.
        out: The result is written here: to C channels of maps that have more, and the type of `x`.

    Returns:
        Maps [N, C, H, W] of the type of `x`, which are `out` if it is given.
    """
    assert norm.num_batches_tracked is not None
    if norm.training:
        norm.num_batches_tracked.add_(1)
    result: Tensor = _TritonNormReLU.apply(
        *(x, norm.weight, norm.bias, norm.running_mean, norm.running_var),
        *(norm.momentum, norm.eps, norm.training, None if out is None else Room(out)),
    )
    return result


class _TritonNormReLU(torch.autograd.Function):
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
        room: Room | None,
    ) -> Tensor:
        channels, pixels = x.shape[1], x.numel() // x.shape[1]
        y, step = (torch.empty_like(x), channels) if room is None else (room.maps, room.maps.stride(3))
        size = tile(channels)
        with torch.cuda.device_of(x):
            if training:
                mean, inverse = torch.empty(2, channels, dtype=torch.float32, device=x.device)
                parts = _Parts(x, pixels, channels)
                _sums[parts.grid](x, *parts.summing)
                _statistics[parts.combining_grid](
                    *(*parts.combining, mean, inverse, running_mean, running_variance, momentum, eps)
                )
            else:
                mean, inverse = running_mean, torch.rsqrt(running_variance + eps)
            _transform[size.grid(pixels, channels)](
                x, y, step, mean, inverse, weight, bias, pixels, channels, size.pixels, size.channels
            )
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
        grad_weight, grad_bias, product = torch.empty(3, channels, dtype=torch.float32, device=x.device)
        size = tile(channels)
        given = (x, grad_y, step, mean, inverse, weight, bias)
        with torch.cuda.device_of(x):
            parts = _Parts(x, pixels, channels)
            _gradient_sums[parts.grid](*given, *parts.summing)
            _parameter_gradients[parts.combining_grid](*parts.combining, inverse, grad_weight, grad_bias, product)
            _gradient[size.grid(pixels, channels)](
                *(*given, grad_x, grad_bias, product, pixels, channels, ctx.training, size.pixels, size.channels)
            )
        return grad_x, grad_weight, grad_bias, None, None, None, None, None, None


class _Parts:
    """The division of a map's pixels into parts of several tiles, and two sums for each part and channel."""

    def __init__(self, x: Tensor, pixels: int, channels: int) -> None:
        size = tile(channels)
        tiles, blocks = size.grid(pixels, channels)
        per_part = -(-tiles // max(1, MOST_PROGRAMS // blocks))
        parts = -(-tiles // per_part)
        sums = torch.empty(2, parts, channels, dtype=torch.float32, device=x.device)
        self.grid = (parts, blocks)
        self.summing = (*sums, pixels, channels, per_part, size.pixels, size.channels)
        self.combining_grid = (COMBINING.grid(parts, channels)[1],)
        self.combining = (
            *(*sums, pixels, channels, per_part * size.pixels, parts),
            *(COMBINING.pixels, COMBINING.channels),
        )


@triton.jit(do_not_specialize=["pixels", "per_part"])
def _sums(x, means, squares, pixels, channels, per_part, PIXELS: tl.constexpr, CHANNELS: tl.constexpr):
    """Write the mean of a part's pixels and their sum of squared distances from it, for each channel."""
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    wanted = channel < channels
    count = 0.0
    mean = tl.zeros((CHANNELS,), tl.float32)
    square = tl.zeros((CHANNELS,), tl.float32)
    for index in range(per_part):
        begin = (tl.program_id(0) * per_part + index) * PIXELS
        pixel = begin + tl.arange(0, PIXELS)
        inside = (pixel < pixels)[:, None] & wanted[None, :]
        value = tl.load(x + (pixel * channels)[:, None] + channel[None, :], mask=inside, other=0.0).to(tl.float32)
        more = tl.minimum(tl.maximum(pixels - begin, 0), PIXELS).to(tl.float32)
        together = tl.maximum(count + more, 1.0)
        own = tl.sum(value, axis=0) / tl.maximum(more, 1.0)
        distance = tl.where(inside, value - own[None, :], 0.0)
        step = own - mean
        square += tl.sum(distance * distance, axis=0) + step * step * (count * more / together)
        mean += step * (more / together)
        count += more
    place = tl.program_id(0) * channels + channel
    tl.store(means + place, mean, mask=wanted)
    tl.store(squares + place, square, mask=wanted)


@triton.jit(do_not_specialize=["pixels", "size", "parts"])
def _statistics(
    means,
    squares,
    pixels,
    channels,
    size,
    parts,
    PARTS: tl.constexpr,
    CHANNELS: tl.constexpr,
    mean,
    inverse,
    running_mean,
    running_variance,
    momentum,
    eps,
):
    """Combine parts of `size` pixels to each channel's mean and inverse deviation; update running statistics."""
    channel = tl.program_id(0) * CHANNELS + tl.arange(0, CHANNELS)
    wanted = channel < channels
    average = tl.zeros((CHANNELS,), tl.float32)
    for begin in range(0, parts, PARTS):
        part = begin + tl.arange(0, PARTS)
        inside = (part < parts)[:, None] & wanted[None, :]
        count = tl.minimum(tl.maximum(pixels - part * size, 0), size).to(tl.float32)
        own = tl.load(means + (part * channels)[:, None] + channel[None, :], mask=inside, other=0.0)
        average += tl.sum(own * (count / pixels)[:, None], axis=0)
    total = tl.zeros((CHANNELS,), tl.float32)
    for begin in range(0, parts, PARTS):
        part = begin + tl.arange(0, PARTS)
        inside = (part < parts)[:, None] & wanted[None, :]
        count = tl.minimum(tl.maximum(pixels - part * size, 0), size).to(tl.float32)
        place = (part * channels)[:, None] + channel[None, :]
        own = tl.load(means + place, mask=inside, other=0.0)
        square = tl.load(squares + place, mask=inside, other=0.0)
        distance = own - average[None, :]
        total += tl.sum(tl.where(inside, square + distance * distance * count[:, None], 0.0), axis=0)
    tl.store(mean + channel, average, mask=wanted)
    tl.store(inverse + channel, 1.0 / tl.sqrt_rn(total / pixels + eps), mask=wanted)
    before = tl.load(running_mean + channel, mask=wanted, other=0.0)
    tl.store(running_mean + channel, before + momentum * (average - before), mask=wanted)
    before = tl.load(running_variance + channel, mask=wanted, other=0.0)
    tl.store(running_variance + channel, before + momentum * (total / (pixels - 1) - before), mask=wanted)


@triton.jit(do_not_specialize=["pixels"])
def _transform(
    x, y, y_step, mean, inverse, weight, bias, pixels, channels, PIXELS: tl.constexpr, CHANNELS: tl.constexpr
):
    """Write relu((x - mean) * inverse * weight + bias). NaN stays NaN."""
    pixel = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    wanted = channel < channels
    inside = (pixel < pixels)[:, None] & wanted[None, :]
    value = tl.load(x + (pixel * channels)[:, None] + channel[None, :], mask=inside, other=0.0).to(tl.float32)
    result = _normalised(value, mean, inverse, weight, bias, channel, wanted)
    place = (pixel * y_step)[:, None] + channel[None, :]
    tl.store(y + place, tl.where(result < 0, 0.0, result).to(y.dtype.element_ty), mask=inside)


@triton.jit
def _normalised(value, mean, inverse, weight, bias, channel, wanted):
    """Normalise values [pixels, channels]; forward and backward take the same, so that they agree on its sign."""
    average = tl.load(mean + channel, mask=wanted, other=0.0)
    scale = tl.load(weight + channel, mask=wanted, other=0.0) * tl.load(inverse + channel, mask=wanted, other=0.0)
    return (value - average[None, :]) * scale[None, :] + tl.load(bias + channel, mask=wanted, other=0.0)[None, :]


@triton.jit(do_not_specialize=["pixels", "per_part"])
def _gradient_sums(
    x,
    grad_y,
    grad_step,
    mean,
    inverse,
    weight,
    bias,
    ones,
    twos,
    pixels,
    channels,
    per_part,
    PIXELS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """Write a part's sums of the gradients that ReLU let pass, and of their products with x - mean."""
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    wanted = channel < channels
    average = tl.load(mean + channel, mask=wanted, other=0.0)
    one = tl.zeros((CHANNELS,), tl.float32)
    two = tl.zeros((CHANNELS,), tl.float32)
    for index in range(per_part):
        pixel = (tl.program_id(0) * per_part + index) * PIXELS + tl.arange(0, PIXELS)
        inside = (pixel < pixels)[:, None] & wanted[None, :]
        value = tl.load(x + (pixel * channels)[:, None] + channel[None, :], mask=inside, other=0.0).to(tl.float32)
        grad = tl.load(grad_y + (pixel * grad_step)[:, None] + channel[None, :], mask=inside, other=0.0)
        result = _normalised(value, mean, inverse, weight, bias, channel, wanted)
        grad = tl.where(result <= 0, 0.0, grad.to(tl.float32))
        one += tl.sum(grad, axis=0)
        two += tl.sum(tl.where(inside, grad * (value - average[None, :]), 0.0), axis=0)
    place = tl.program_id(0) * channels + channel
    tl.store(ones + place, one, mask=wanted)
    tl.store(twos + place, two, mask=wanted)


@triton.jit(do_not_specialize=["pixels", "size", "parts"])
def _parameter_gradients(
    ones,
    twos,
    pixels,
    channels,
    size,
    parts,
    PARTS: tl.constexpr,
    CHANNELS: tl.constexpr,
    inverse,
    grad_weight,
    grad_bias,
    product,
):
    """Combine the parts to the gradients of weight and bias, and to the sum of products with x - mean."""
    channel = tl.program_id(0) * CHANNELS + tl.arange(0, CHANNELS)
    wanted = channel < channels
    one = tl.zeros((CHANNELS,), tl.float32)
    two = tl.zeros((CHANNELS,), tl.float32)
    for begin in range(0, parts, PARTS):
        part = begin + tl.arange(0, PARTS)
        inside = (part < parts)[:, None] & wanted[None, :]
        place = (part * channels)[:, None] + channel[None, :]
        one += tl.sum(tl.load(ones + place, mask=inside, other=0.0), axis=0)
        two += tl.sum(tl.load(twos + place, mask=inside, other=0.0), axis=0)
    tl.store(grad_bias + channel, one, mask=wanted)
    tl.store(grad_weight + channel, two * tl.load(inverse + channel, mask=wanted, other=0.0), mask=wanted)
    tl.store(product + channel, two, mask=wanted)


@triton.jit(do_not_specialize=["pixels"])
def _gradient(
    x,
    grad_y,
    grad_step,
    mean,
    inverse,
    weight,
    bias,
    grad_x,
    grad_bias,
    product,
    pixels,
    channels,
    TRAINING: tl.constexpr,
    PIXELS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """Write the gradient of x. In evaluation the statistics are constants, so that it is that of a linear function."""
    pixel = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    wanted = channel < channels
    inside = (pixel < pixels)[:, None] & wanted[None, :]
    place = (pixel * channels)[:, None] + channel[None, :]
    value = tl.load(x + place, mask=inside, other=0.0).to(tl.float32)
    grad = tl.load(grad_y + (pixel * grad_step)[:, None] + channel[None, :], mask=inside, other=0.0)
    result = _normalised(value, mean, inverse, weight, bias, channel, wanted)
    grad = tl.where(result <= 0, 0.0, grad.to(tl.float32))
    spread = tl.load(inverse + channel, mask=wanted, other=0.0)
    scale = tl.load(weight + channel, mask=wanted, other=0.0) * spread
    if TRAINING:
        average = tl.load(mean + channel, mask=wanted, other=0.0)
        shift = tl.load(grad_bias + channel, mask=wanted, other=0.0) / pixels
        slope = tl.load(product + channel, mask=wanted, other=0.0) * spread * spread / pixels
        grad = grad - shift[None, :] - (value - average[None, :]) * slope[None, :]
    tl.store(grad_x + place, (grad * scale[None, :]).to(grad_x.dtype.element_ty), mask=inside)
