"""Adaptive average pooling that is deterministic on request.

On a GPU, the gradient of torch's own adaptive pooling adds atomically and in no fixed order.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def adaptive_average(x: Tensor, grid: int) -> Tensor:
    """`F.adaptive_avg_pool2d` to a square grid: [N, C, H, W] -> [N, C, grid, grid].

    If torch uses deterministic algorithms, it is computed with matrix products, which changes it by rounding only.
    """
    if grid == 1 or not torch.are_deterministic_algorithms_enabled():
        return F.adaptive_avg_pool2d(x, grid)  # with a single cell it is a mean, whose gradient is deterministic
    rows, columns = (_means(side, grid, x) for side in x.shape[2:])
    return torch.einsum("gh,nchw,kw->ncgk", rows, x, columns)


class AdaptiveAveragePool(nn.AdaptiveAvgPool2d):
    """`adaptive_average` to a square grid with `output_size` cells on each side."""

    output_size: int

    def forward(self, x: Tensor) -> Tensor:
        return adaptive_average(x, self.output_size)


def _means(side: int, grid: int, like: Tensor) -> Tensor:
    """A matrix [grid, side] whose rows average the pixels of one cell each; neighbouring cells may overlap."""
    means = torch.zeros(grid, side)
    for cell in range(grid):
        start, end = cell * side // grid, -(-(cell + 1) * side // grid)
        means[cell, start:end] = 1 / (end - start)
    return means.to(like)
