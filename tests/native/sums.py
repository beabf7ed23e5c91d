"""What every kernel that adds up maps has to do, in C and in Triton."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def maps(*shape: int, dtype: torch.dtype, seed: int = 0) -> Tensor:
    drawn = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return drawn.to(dtype).contiguous(memory_format=torch.channels_last)


def check_sum(
    sum_maps: Callable[[Sequence[Tensor]], Tensor], shape: tuple[int, ...], count: int, dtype: torch.dtype
) -> None:
    """A sum is rounded once, also of channels of larger maps and of maps in another order."""
    images, channels, *sides = shape
    wide = maps(images, 3 * channels, *sides, dtype=dtype)
    given = [wide[:, channels : 2 * channels], maps(*shape, dtype=dtype, seed=1), wide[:, 2 * channels :]]
    given = [*given, maps(*shape, dtype=dtype, seed=2).contiguous()][:count]
    expected = given[0].float()
    for others in given[1:]:
        expected = expected + others.float()
    found = sum_maps(given)
    assert torch.equal(found, expected.to(dtype))
    assert found.is_contiguous(memory_format=torch.channels_last)
