"""Photometric distortions of training images (Szegedy et al. 2014, section 6, which cites Howard 2013)."""

from __future__ import annotations

import itertools
import math

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from reproduce.data.loading.cropping import Integers
from reproduce.data.loading.decoding import uniforms

STRENGTH = 0.5  # factors are between 1 - STRENGTH and 1 + STRENGTH
LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, PIL's "L"
FIRST_DRAW = 64  # in an image's stream; crops and flips use the draws before it

# Principal components of ImageNet's RGB pixels, scaled to [0, 1], and the standard deviation of the noise along them
# (Krizhevsky et al. 2012, section 4.1; the values are those of facebook/fb.resnet.torch, datasets/imagenet.lua).
DEVIATION = 0.1
EIGENVALUES = (0.2175, 0.0188, 0.0045)
EIGENVECTORS = ((-0.5675, 0.7192, 0.4009), (-0.5808, -0.0045, -0.8140), (-0.5836, -0.6948, 0.4203))

BRIGHTNESS, CONTRAST, COLOUR = range(3)
ORDERS = np.array(list(itertools.permutations((BRIGHTNESS, CONTRAST, COLOUR))))


def distorted(images: Tensor, key: int, numbers: Integers) -> Tensor:
    """Change brightness, contrast and colour in a random order, then add noise along ImageNet's principal components.

    Each of the three is changed by a random factor between 0.5 and 1.5 (Howard 2013, arXiv:1312.5402), with the
    formulas and the rounding of PIL's `ImageEnhance`. The distortion of an image depends only on `key` and on the
    image's number. `images` is not modified.

    Args:
        images: uint8 [N, 3, H, W] in RGB, in any memory format.
        key: Key of the epoch, see `decoding.epoch_key`.
        numbers: int64 [N], numbers of the images in the file.

    Returns:
        The distorted images, uint8 [N, 3, H, W], on the device and in the memory format of `images`.
    """
    # The draws are [N, 1, 1, 3] each, and pixels [N, H, W, 3], which is their order in memory.
    orders, factors, noise = (
        torch.from_numpy(drawn).to(images.device)[:, None, None] for drawn in _draws(key, numbers)
    )
    luma = torch.tensor(LUMA, device=images.device)
    pixels = images.permute(0, 2, 3, 1).float()
    for place in range(3):
        operation, factor = orders[..., place, None], factors[..., place, None]
        grey = (pixels @ luma).round_()[..., None]
        mean = (grey.mean((1, 2), keepdim=True) + 0.5).floor_()
        pixels.mul_(factor)
        pixels.add_(torch.where(operation == COLOUR, 1 - factor, 0) * grey)
        pixels.add_(torch.where(operation == CONTRAST, (1 - factor) * mean, 0)).floor_().clamp_(0, 255)
    return pixels.add_(noise).round_().clamp_(0, 255).to(torch.uint8).permute(0, 3, 1, 2)


def _draws(
    key: int, numbers: Integers
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Draw the distortions of N images.

    Returns:
        Three arrays [N, 3]: the operations in their order, the factor of the operation at each place of that order, and
        the noise of each channel in levels of 255.
    """
    drawn = uniforms(key, numbers, first=FIRST_DRAW, count=10)
    orders = ORDERS[(drawn[:, 0] * len(ORDERS)).astype(np.int64)]
    factors = 1 + STRENGTH * (2 * drawn[:, 1:4] - 1)
    normal = np.sqrt(-2 * np.log1p(-drawn[:, 4:7])) * np.cos(2 * math.pi * drawn[:, 7:10])  # Box-Muller transform
    noise = 255 * (DEVIATION * normal * EIGENVALUES) @ np.array(EIGENVECTORS).T
    return orders, factors.astype(np.float32), noise.astype(np.float32)
