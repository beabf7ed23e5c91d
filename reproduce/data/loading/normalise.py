"""Normalising pixels for the network, on the device."""

from __future__ import annotations

import torch
from torch import Tensor, nn

MEAN = (0.485, 0.456, 0.406)  # ImageNet, RGB, of pixels scaled to [0, 1]
STD = (0.229, 0.224, 0.225)


class Normalise(nn.Module):
    """Computes ((x / 255) - mean) / std with ImageNet's mean and standard deviation.

    Takes uint8 [N, 3, H, W] and returns `dtype` in the same memory format. The computation is in float32 whatever
    `dtype` is, since bfloat16 would round the scale itself. Images that are of `dtype` already have been normalised by
    the loader and pass unchanged.
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
