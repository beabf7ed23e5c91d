"""Describes the kernels for one type of device: what they support, and what every set of kernels has to offer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from reproduce.native import KERNELS, Implementation


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
    on_request: tuple[torch.dtype, ...] = ()
    """Those of `dtypes` that they take only if `DEEPER_KERNELS=native` asks for it."""

    def takes(self, dtype: torch.dtype) -> bool:
        """Whether they take maps of a type, if they are used at all."""
        return dtype in self.dtypes and (dtype not in self.on_request or KERNELS.requested() == "native")
