"""Sums of maps in channels_last on a GPU, in one pass, in Triton."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from reproduce.native.backend import MOST_MAPS, strided
from reproduce.native.gpu.tiles import LARGEST, tile


def sum_maps(maps: Sequence[Tensor]) -> Tensor:
    """Add up maps in their order, in float32, and round once.

    Args:
        maps: Two to `MOST_MAPS` maps [N, C, H, W] of one type, with fewer than 2^31 elements each. Those that are some
            channels of larger maps are read where they lie.

    Returns:
        Maps [N, C, H, W] of the same type in channels_last.
    """
    first = maps[0]
    channels, pixels = first.shape[1], first.numel() // first.shape[1]
    total = torch.empty(first.shape, dtype=first.dtype, device=first.device, memory_format=torch.channels_last)
    read = [strided(given, LARGEST) for given in maps]
    unused = [(total, channels)] * (MOST_MAPS - len(read))
    size = tile(channels)
    with torch.cuda.device_of(first):
        _sum[size.grid(pixels, channels)](
            *(given for pair in (*read, *unused) for given in pair),
            *(total, pixels, channels, len(read), size.pixels, size.channels),
        )
    return total


@triton.jit(do_not_specialize=["pixels"])
def _sum(
    one,
    one_step,
    two,
    two_step,
    three,
    three_step,
    four,
    four_step,
    total,
    pixels,
    channels,
    COUNT: tl.constexpr,
    PIXELS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """Write the sum of the first COUNT maps."""
    pixel = (tl.program_id(0) * PIXELS + tl.arange(0, PIXELS))[:, None]
    channel = (tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS))[None, :]
    inside = (pixel < pixels) & (channel < channels)
    value = tl.load(one + pixel * one_step + channel, mask=inside, other=0.0).to(tl.float32)
    value += tl.load(two + pixel * two_step + channel, mask=inside, other=0.0).to(tl.float32)
    if COUNT > 2:
        value += tl.load(three + pixel * three_step + channel, mask=inside, other=0.0).to(tl.float32)
    if COUNT > 3:
        value += tl.load(four + pixel * four_step + channel, mask=inside, other=0.0).to(tl.float32)
    tl.store(total + pixel * channels + channel, value.to(total.dtype.element_ty), mask=inside)
