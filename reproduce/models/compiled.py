"""Applies torch.compile to the parts of a network instead of the whole network."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from reproduce.models.inception import Convolution, Inception

RECOMPILE_LIMIT = 64
"""How often torch may compile the code of one forward method.

It suffices for nine Inception modules in training mode at every resolution of progressive resizing.
"""


def compile_parts(network: nn.Module, **options: Any) -> None:
    """Compile each convolution block of the stem and each Inception module separately, in place.

    Each part compiles when it is first called, and again for each new input shape. A part takes seconds to compile,
    whereas the whole network would take minutes. Other layers, among them the auxiliary classifiers, stay uncompiled.
    Parameters keep their names. A deep copy of the network is not compiled.

    The call raises torch's recompile limit to at least `RECOMPILE_LIMIT` for the whole process, and lets the compiler
    choose kernels without timing them while torch uses deterministic algorithms.

    Args:
        network: The network, whose direct children are searched for parts to compile.
        options: Keyword arguments of torch.compile other than `dynamic`, for example `backend`.
    """
    # All Inception modules run one code object. By default, torch compiles it eight times and then runs it uncompiled.
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, RECOMPILE_LIMIT)
    torch._inductor.config.deterministic = torch.are_deterministic_algorithms_enabled()
    for part in network.children():
        if isinstance(part, Convolution | Inception):
            part.compile(dynamic=False, **options)  # code for all sizes takes many times as long to compile
