"""Decides whether the kernels in Triton are used, and offers them without importing Triton before it is needed."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from importlib import metadata

import torch
from torch import Tensor, nn

from reproduce.native import KERNELS, Implementation, ImplementationError
from reproduce.native.backend import Backend, Window

HINT = "install triton, which torch's CUDA builds bring along"


def implementation() -> Implementation:
    """Determine whether this process uses the kernels in Triton or torch's on GPUs.

    `DEEPER_KERNELS=native` selects those in Triton. If it is unset, torch's are used, since nobody has measured those
    in Triton on a GPU yet.

    Raises:
        ImplementationError: The variable has an invalid value, or it is `native` and Triton is not installed.
    """
    return _implementation(KERNELS.requested())


@functools.cache
def _implementation(requested: str) -> Implementation:
    if requested == KERNELS.fallback:
        return Implementation(KERNELS.fallback, f"{KERNELS.variable}={KERNELS.fallback}")
    if not requested:
        return Implementation(KERNELS.fallback, f"{KERNELS.variable}=native selects those in Triton, not yet measured")
    try:
        return Implementation("native", f"triton {metadata.version('triton')}")
    except metadata.PackageNotFoundError:
        raise ImplementationError(f"{KERNELS.variable}=native: triton is not installed; {HINT}") from None


def _max_pool(x: Tensor, window: Window) -> Tensor:
    from reproduce.native.gpu.pooling import max_pool

    return max_pool(x, window)


def _norm_relu(norm: nn.BatchNorm2d, x: Tensor, out: Tensor | None = None) -> Tensor:
    from reproduce.native.gpu.normalisation import norm_relu

    return norm_relu(norm, x, out)


def _sum_maps(maps: Sequence[Tensor]) -> Tensor:
    from reproduce.native.gpu.sums import sum_maps

    return sum_maps(maps)


TRITON = Backend(
    name="Triton",
    dtypes=(torch.bfloat16, torch.float32),
    largest_window=5,  # the kernels are unrolled over the window
    largest_map=2**31,  # they compute places as 32-bit integers
    evaluates=True,
    by_map=True,
    implementation=implementation,
    max_pool=_max_pool,
    norm_relu=_norm_relu,
    norm_relu_at=_norm_relu,
    sum_maps=_sum_maps,
)
"""The kernels for GPUs."""
