"""A network as evaluation runs it: batch normalisation folded into the convolutions before it."""

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
    """A copy in evaluation mode whose `Convolution`s hold no normalisation, with weights in `dtype` (default: as is).

    The same function of the images up to rounding, of which there is less: a folded convolution rounds its output once
    where convolution and normalisation round twice. In bfloat16 it takes images of that type and needs no autocast,
    whose rounding of the weights it has done for good.
    """
    network = copy.deepcopy(network).eval().requires_grad_(False)
    for module in network.modules():
        if isinstance(module, Convolution) and module.bn is not None:
            module.conv = fuse_conv_bn_eval(module.conv, module.bn)
            module.bn = None
    return network.to(dtype=dtype)
