"""Describes the kernels for one type of device: what they support, and what every set of kernels has to offer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from reproduce.native import KERNELS, Implementation

MOST_MAPS = 4
"""Maps that a kernel adds up in one pass: an Inception module has four branches."""


class Window(NamedTuple):
    """The window of a max pool: a square without dilation, with the meaning of `nn.MaxPool2d`."""

    kernel: int
    stride: int
    padding: int
    ceil_mode: bool

    def pooled(self, side: int) -> int:
        """Compute a side of the output, by the rule of `nn.MaxPool2d`.

        With `ceil_mode` the number of windows is rounded up, except for a window that would begin beyond the input and
        the padding before it.
        """
        whole, remainder = divmod(side + 2 * self.padding - self.kernel, self.stride)
        up = self.ceil_mode and remainder > 0 and (whole + 1) * self.stride < side + self.padding
        return whole + 1 + up


@dataclass(frozen=True, kw_only=True)
class Backend:
    """The kernels for one type of device. Maps are [N, C, H, W] in channels_last."""

    name: str
    """What the kernels are called in messages."""
    dtypes: tuple[torch.dtype, ...]
    """Types of the maps that they take."""
    largest_window: int
    """Largest side of a window."""
    largest_map: int
    """Number of elements that maps have to stay below."""
    evaluates: bool
    """Whether they normalise in evaluation mode as well."""
    by_map: bool
    """Whether kernels may differ with the channels and sides of a map, so that each is compared with torch's."""
    implementation: Callable[[], Implementation]
    """Decides whether the kernels are used in this process."""
    max_pool: Callable[[Tensor, Window], Tensor]
    """Pools maps."""
    norm_relu: Callable[[nn.BatchNorm2d, Tensor], Tensor]
    """Computes relu(norm(x)), and in training mode updates the running statistics."""
    sum_maps: Callable[[Sequence[Tensor]], Tensor]
    """Adds up two to `MOST_MAPS` maps of the same type and shape."""
    norm_relu_at: Callable[[nn.BatchNorm2d, Tensor, Tensor], Tensor] | None = None
    """Does the same, and writes the result to its third argument, some channels of larger maps; None where a copy is
    faster."""
    on_request: tuple[torch.dtype, ...] = ()
    """Those of `dtypes` that they take only if `DEEPER_KERNELS=native` asks for it."""

    def takes(self, dtype: torch.dtype) -> bool:
        """Whether they take maps of a type, if they are used at all."""
        return dtype in self.dtypes and (dtype not in self.on_request or KERNELS.requested() == "native")


class Room(NamedTuple):
    """Memory that an autograd function writes its result to. As a tensor among its arguments it would be an input."""

    maps: Tensor
    """Some channels of larger maps, in the order NHWC; no view for autograd."""


def part_of(maps: Tensor, begin: int, channels: int) -> Tensor:
    """Return some channels of maps [N, C, H, W] in channels_last, in the same memory, and no view for autograd."""
    images, step, height, width = maps.shape
    part = maps.narrow(1, begin, channels)
    strides = (height * width * step, 1, width * step, step)
    return maps.new_empty(0).set_(  # type: ignore[call-overload, no-any-return]
        part.untyped_storage(), part.storage_offset(), (images, channels, height, width), strides
    )


def strided(maps: Tensor, largest: int) -> tuple[Tensor, int]:
    """Return maps in the order NHWC whose pixels may have gaps between them, and the distance of two pixels.

    Some channels of maps with more channels, which is what the gradient of a concatenation gives to a branch, are
    returned as they are. Any other order is copied.

    Args:
        maps: Maps [N, C, H, W].
        largest: The number of elements that all pixels and the gaps between them have to stay below.

    Returns:
        The maps, and the number of elements from a pixel to the next.
    """
    _, _, height, width = maps.shape
    step = maps.stride(3)
    if maps.stride() == (height * width * step, 1, width * step, step) and step * len(maps) * height * width < largest:
        return maps, step
    return maps.contiguous(memory_format=torch.channels_last), maps.shape[1]
