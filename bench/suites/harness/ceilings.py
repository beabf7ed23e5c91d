"""Measures what a device can reach: arithmetic by a convolution or a matrix product, memory bandwidth by a copy."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
import torch.nn.functional as F

from reproduce.models.roofline import Ceiling

REPETITIONS = 5


def measured_ceiling(device: torch.device, dtype: torch.dtype) -> Ceiling:
    """Returns the best FLOP/s and bytes/s of a few repetitions, with the threads that torch has. Takes 2 s on CPUs."""
    is_gpu = device.type == "cuda"
    side, batch = (8192, 256) if is_gpu else (1536, 32)
    matrix = torch.randn(side, side, device=device).to(dtype)
    maps = torch.randn(batch, 192, 28, 28, device=device).to(dtype=dtype, memory_format=torch.channels_last)
    kernel = torch.randn(192, 192, 3, 3, device=device).to(dtype=dtype, memory_format=torch.channels_last)
    words = torch.empty(2**28 if is_gpu else 2**25, device=device)
    target = torch.empty_like(words)
    with torch.inference_mode():
        product = 2 * side**3 / _best_seconds(lambda: matrix @ matrix, device)
        convolution = 2 * maps.numel() * 192 * 9 / _best_seconds(lambda: F.conv2d(maps, kernel, padding=1), device)
        copied = 2 * words.nbytes / _best_seconds(lambda: target.copy_(words), device)
    return Ceiling(flops_per_s=max(product, convolution), bytes_per_s=copied)


def synchronise(device: torch.device) -> None:
    """Waits until a device has finished all work that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _best_seconds(work: Callable[[], object], device: torch.device) -> float:
    times = []
    for _ in range(REPETITIONS + 1):  # the first one warms up and is never the best
        synchronise(device)
        start = time.perf_counter()
        work()
        synchronise(device)
        times.append(time.perf_counter() - start)
    return min(times)
