"""Puts the labels of a batch beside its pixels, so that one transfer brings both to a device."""

# mypy: allow-untyped-calls

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from reproduce.data.loading.cropping import Integers
from reproduce.data.loading.decoding import CentralCrop, NativeDecoder, RandomCrop
from reproduce.data.loading.engine import AllocationQuery, State

LABEL = 8
"""Bytes of a label, an int64."""


class PackingDecoder(NativeDecoder):
    """Decodes a batch of N images to uint8 [N, 8 + 3 * resolution^2]: the labels of all, then the pixels of all.

    The rows have no meaning; they are as many bytes as an image and its label need. `unpacked` reads them.

    Args:
        crop: Random or central crops.
        resolution: Side of the decoded images, in pixels.
        threads: Number of threads that decode a batch.
        file: The FFCV file, which the message about a damaged image names.
    """

    def __init__(self, crop: RandomCrop | CentralCrop, resolution: int, threads: int, file: Path) -> None:
        super().__init__(crop, resolution, threads, file, None)
        self.labels: Integers = np.empty(0, np.int64)
        """The class of every image of the file, int64. The caller sets it before the first batch."""

    def declare_state_and_memory(self, previous_state: State) -> tuple[State, AllocationQuery]:
        shape = (LABEL + 3 * self.resolution**2,)
        return replace(previous_state, jit_mode=True, shape=shape, dtype=self.dtype), AllocationQuery(shape, self.dtype)

    def generate_code(self) -> Callable[..., Any]:
        decode = super().generate_code()

        def pack(indices: Integers, out: Any, metadata: Any, storage: Any) -> Any:
            labels, pixels = np.split(out.reshape(-1), [LABEL * len(out)])
            labels.view(np.int64)[:] = self.labels[indices]
            side = _side(out)
            decode(indices, pixels.reshape(len(out), side, side, 3), metadata, storage)
            return out

        return pack


def unpacked(batch: Tensor) -> tuple[Tensor, Tensor]:
    """Read a batch of `PackingDecoder`, without a copy.

    Args:
        batch: uint8 [N, 8 + 3 * S^2], in one piece of memory that begins at a multiple of eight bytes.

    Returns:
        Images, uint8 [N, 3, S, S] in channels_last, and labels, int64 [N]. Both are views.
    """
    side = _side(batch)
    labels, pixels = batch.view(-1).tensor_split([LABEL * len(batch)])
    return pixels.view(len(batch), side, side, 3).permute(0, 3, 1, 2), labels.view(torch.int64)


def _side(batch: Any) -> int:
    return math.isqrt((batch.shape[1] - LABEL) // 3)
