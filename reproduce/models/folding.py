"""Prepares networks for evaluation by folding batch normalisation into the preceding convolutions."""

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

    The copy computes the same function as the network in evaluation mode, up to rounding. It rounds once for each
    convolution, whereas the network rounds the output of the convolution and that of its normalisation. A network
    without batch normalisation is only copied.

    Args:
        network: The network, which is not changed.
        dtype: Type of the copy's weights. None keeps the type of the network's weights. With bfloat16, the copy takes
            bfloat16 images and needs no autocast.

    Returns:
        The copy, in evaluation mode, whose parameters do not require gradients.
    """
    network = copy.deepcopy(network).eval().requires_grad_(False)
    for module in network.modules():
        if isinstance(module, Convolution) and module.bn is not None:
            module.conv = fuse_conv_bn_eval(module.conv, module.bn)
            module.bn = None
    return network.to(dtype=dtype)
