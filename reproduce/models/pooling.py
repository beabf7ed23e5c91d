"""Adaptive average pooling with a gradient that is deterministic if torch's deterministic algorithms are enabled.

On a GPU, the gradient of torch's own adaptive pooling is summed with atomic additions, whose order varies.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def adaptive_average(x: Tensor, grid: int) -> Tensor:
    """Average pool a map of any size to a square grid: [N, C, H, W] -> [N, C, grid, grid].

    The result is that of `F.adaptive_avg_pool2d`. While `torch.use_deterministic_algorithms` is on, it is computed with
    matrix products, whose gradient is deterministic and which change the result by rounding only.
    """
    if grid == 1 or not torch.are_deterministic_algorithms_enabled():
        return F.adaptive_avg_pool2d(x, grid)  # with a single cell it is a mean, whose gradient is deterministic
    rows, columns = (_means(side, grid, x) for side in x.shape[2:])
    return torch.einsum("gh,nchw,kw->ncgk", rows, x, columns)


class AdaptiveAveragePool(nn.AdaptiveAvgPool2d):
    """`adaptive_average` as a module: [N, C, H, W] -> [N, C, output_size, output_size]."""

    output_size: int

    def forward(self, x: Tensor) -> Tensor:
        return adaptive_average(x, self.output_size)


def _means(side: int, grid: int, like: Tensor) -> Tensor:
    """Create a matrix [grid, side], each row of which averages the pixels of one cell. Cells may overlap."""
    means = torch.zeros(grid, side)
    for cell in range(grid):
        start, end = cell * side // grid, -(-(cell + 1) * side // grid)
        means[cell, start:end] = 1 / (end - start)
    return means.to(like)
