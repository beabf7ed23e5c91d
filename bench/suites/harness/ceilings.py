"""Measures the ceilings of a device: arithmetic by a convolution and a matrix product, memory bandwidth by a copy."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
import torch.nn.functional as F

from reproduce.models.roofline import Ceiling

REPETITIONS = 5


def measured_ceiling(device: torch.device, dtype: torch.dtype) -> Ceiling:
    """Measure the FLOP/s and the memory bandwidth that a device reaches at best, in about 2 s on CPUs.

    The FLOP/s are those of a matrix product or of a 3x3 convolution, whichever is faster. The bandwidth is that of a
    copy of float32 numbers, whose bytes count once for reading and once for writing. Each is the best of
    `REPETITIONS` repetitions. CPUs use the number of threads that torch is set to.

    Args:
        device: The device. The copy alone takes 2 GiB of memory on GPUs and 256 MiB on CPUs.
        dtype: Type of the numbers in the product and the convolution.
    """
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
    """Wait until a device has finished all work that was queued on it. Return at once on CPUs, which have no queue."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _best_seconds(work: Callable[[], object], device: torch.device) -> float:
    """Return the seconds of the fastest of several calls of `work`, waiting for the device each time."""
    times = []
    for _ in range(REPETITIONS + 1):  # the first one warms up and is never the best
        synchronise(device)
        start = time.perf_counter()
        work()
        synchronise(device)
        times.append(time.perf_counter() - start)
    return min(times)
