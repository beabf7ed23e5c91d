"""How the Triton kernels divide maps into tiles."""

from __future__ import annotations

from dataclasses import dataclass

import triton

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
