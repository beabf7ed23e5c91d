"""Adaptive average pooling, deterministic where it is asked to be: on a GPU the gradient of torch's adds atomically."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def adaptive_average(x: Tensor, grid: int) -> Tensor:
    """[N, C, H, W] -> [N, C, grid, grid] as `F.adaptive_avg_pool2d`; by matrix products where torch is told to be
    deterministic: the same up to rounding."""
    if grid == 1 or not torch.are_deterministic_algorithms_enabled():
        return F.adaptive_avg_pool2d(x, grid)  # to a single cell it is a mean, whose gradient is deterministic
    rows, columns = (_means(side, grid, x) for side in x.shape[2:])
    return torch.einsum("gh,nchw,kw->ncgk", rows, x, columns)


class AdaptiveAveragePool(nn.AdaptiveAvgPool2d):
    """`adaptive_average` to a square map of `output_size` cells a side."""

    output_size: int

    def forward(self, x: Tensor) -> Tensor:
        return adaptive_average(x, self.output_size)


def _means(side: int, grid: int, like: Tensor) -> Tensor:
    """[grid, side]: each row averages the pixels of one cell, which may share some with the next."""
    means = torch.zeros(grid, side)
    for cell in range(grid):
        start, end = cell * side // grid, -(-(cell + 1) * side // grid)
        means[cell, start:end] = 1 / (end - start)
    return means.to(like)
