"""Networks for evaluation: batch normalisation is folded into the convolutions before it."""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from torch import nn
from torch.nn.utils import fuse_conv_bn_eval

from reproduce.models.inception import Convolution

Network = TypeVar("Network", bound=nn.Module)


@torch.no_grad()
def folded(network: Network, dtype: torch.dtype | None = None) -> Network:
    """Copy a network for evaluation, with its batch normalisation folded into the convolutions.

    The copy computes the same function up to rounding, and rounds less: once for each convolution, instead of once for
    the convolution and once for its normalisation.

    Args:
        network: The network; it stays as it is.
        dtype: Type of the copy's weights; by default that of the network's. In bfloat16, the copy takes images of that
            type and needs no autocast.

    Returns:
        The copy, in evaluation mode and without gradients.
    """
    network = copy.deepcopy(network).eval().requires_grad_(False)
    for module in network.modules():
        if isinstance(module, Convolution) and module.bn is not None:
            module.conv = fuse_conv_bn_eval(module.conv, module.bn)
            module.bn = None
    return network.to(dtype=dtype)
