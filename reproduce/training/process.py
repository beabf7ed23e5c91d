"""What a rank's process has of its own beside the network: threads, memory, generators."""

from __future__ import annotations

import ctypes
import gc
import resource
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

DROPOUT = 1  # tells dropout's generator from others that are made of the same seed


M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # glibc's malloc.h


def prepare_process(device: torch.device, threads: int) -> None:
    """Set torch's threads, device and use of memory, and forget the peak of a run that the process trained before."""
    torch.set_num_threads(threads)  # Ray sets OMP_NUM_THREADS=1
    if device.type == "cuda":
        torch.cuda.set_device(device)
        torch.backends.cudnn.benchmark = True
        torch.cuda.reset_peak_memory_stats(device)
    else:
        _keep_freed_memory()
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")


def _keep_freed_memory() -> None:
    """Let glibc keep what is freed from here on, and give back what was freed until now.

    Else every step maps its activations anew, and the kernel clears a hundred thousand pages for each at 224 pixels.
    """
    gc.collect()  # a run that has ended may still be held by itself
    with suppress(OSError, AttributeError):  # another C library
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_MAX, 0)
        libc.mallopt(M_TRIM_THRESHOLD, -1)
        libc.malloc_trim(0)


def peak_memory_gib(device: torch.device) -> float:
    """CUDA allocator's peak, or peak resident memory on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # in KiB on Linux


def dropout_seed(seed: int, rank: int) -> int:
    return int(np.random.SeedSequence([seed, rank, DROPOUT]).generate_state(1, np.uint64)[0])


def generators(device: torch.device) -> list[Tensor]:
    """States of torch's generators: the CPU's, then the device's."""
    states = [torch.get_rng_state()]
    return [*states, torch.cuda.get_rng_state(device)] if device.type == "cuda" else states


def set_generators(states: list[Tensor], device: torch.device) -> None:
    torch.set_rng_state(states[0])
    if device.type == "cuda":
        torch.cuda.set_rng_state(states[1], device)
