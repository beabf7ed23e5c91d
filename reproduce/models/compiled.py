"""torch.compile over a network's parts."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from reproduce.models.inception import Convolution, Inception

FORMS = 64  # a network has nine modules, each seen in training and at every resolution of progressive resizing


def compile_parts(network: nn.Module, **options: Any) -> None:
    """Compile each convolution of the stem and each Inception module by itself, in place, at its first call.

    A part compiles in seconds, where the whole network takes minutes. Names of parameters stay; a copy of the network
    is not compiled. options: of torch.compile.
    """
    # All modules run one code object, of which torch compiles eight forms and computes further ones uncompiled.
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, FORMS)
    for part in network.children():
        if isinstance(part, Convolution | Inception):
            part.compile(dynamic=False, **options)  # code for any size compiles for many times as long
