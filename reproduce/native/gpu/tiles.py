"""Helpers of the Triton kernels: how maps are divided into tiles, and how maps with gaps between pixels are read."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
from torch import Tensor

LARGEST = 2**31
"""Elements from which a tensor is too large: the kernels compute places as 32-bit integers."""

ELEMENTS = 1024
"""Elements of a tile: each of the 128 threads of a program reads 16 bytes of bfloat16 at a time."""

WIDEST = 64
"""Channels of a tile, at most: 64 of bfloat16 are the 128 bytes that a GPU reads at once."""


@dataclass(frozen=True)
class Tile:
    """The part of a map [pixels, channels] that a program handles at once; both sides are powers of two."""

    pixels: int
    channels: int

    def grid(self, pixels: int, channels: int) -> tuple[int, int]:
        """Return how many tiles cover a map, along pixels and along channels."""
        return -(-pixels // self.pixels), -(-channels // self.channels)


def tile(channels: int) -> Tile:
    """Choose a tile of `ELEMENTS` elements for maps with so many channels.

    Maps of few channels have narrower tiles.
    """
    wide = min(WIDEST, triton.next_power_of_2(max(channels, 16)))
    return Tile(ELEMENTS // wide, wide)


def strided(maps: Tensor) -> tuple[Tensor, int]:
    """Return maps in the order NHWC whose pixels may have gaps between them, and the distance of two pixels.

    Some channels of maps with more channels, which is what the gradient of a concatenation gives to a branch, are
    returned as they are. Any other order is copied.

    Args:
        maps: Maps [N, C, H, W].

    Returns:
        The maps, and the number of elements from a pixel to the next.
    """
    _, _, height, width = maps.shape
    step = maps.stride(3)
    if maps.stride() == (height * width * step, 1, width * step, step) and step * len(maps) * height * width < LARGEST:
        return maps, step
    return maps.contiguous(memory_format=torch.channels_last), maps.shape[1]
