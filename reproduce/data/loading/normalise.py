"""Normalisation of pixels with ImageNet's mean and standard deviation."""

from __future__ import annotations

import torch
from torch import Tensor, nn

MEAN = (0.485, 0.456, 0.406)  # ImageNet, RGB, of pixels scaled to [0, 1]
STD = (0.229, 0.224, 0.225)


class Normalise(nn.Module):
    """A module without parameters that computes (x / 255 - mean) / std with ImageNet's mean and standard deviation.

    It takes uint8 [N, 3, H, W] in RGB and returns `dtype` in the same memory format. It computes in float32 whatever
    `dtype` is, since bfloat16 would round the scale itself. Images that already have `dtype` are returned unchanged,
    since the loader has normalised them.

    Args:
        dtype: Type of the normalised images.
    """

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.dtype = dtype
        std = torch.tensor(STD).view(1, 3, 1, 1)
        self.register_buffer("scale", 1 / (255 * std), persistent=False)
        self.register_buffer("shift", -torch.tensor(MEAN).view(1, 3, 1, 1) / std, persistent=False)
        self.scale: Tensor
        self.shift: Tensor

    def forward(self, images: Tensor) -> Tensor:
        if images.dtype == self.dtype:
            return images
        return images.to(torch.float32).mul_(self.scale).add_(self.shift).to(self.dtype)
