"""torch.compile for the parts of a network."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from reproduce.models.inception import Convolution, Inception

RECOMPILE_LIMIT = 64
"""Enough for nine Inception modules, in training mode at every resolution of progressive resizing."""


def compile_parts(network: nn.Module, **options: Any) -> None:
    """Compile each convolution of the stem and each Inception module by itself, in place, at its first call.

    A part compiles in seconds, the whole network in minutes. Parameters keep their names. A copy of the network is not
    compiled.

    Args:
        network: The network.
        options: Options of torch.compile.
    """
    # All Inception modules run one code object. By default, torch compiles it eight times and then runs it uncompiled.
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, RECOMPILE_LIMIT)
    for part in network.children():
        if isinstance(part, Convolution | Inception):
            part.compile(dynamic=False, **options)  # code for all sizes takes many times as long to compile
