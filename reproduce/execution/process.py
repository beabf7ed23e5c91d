"""What a rank's process has of its own beside the network: threads, memory, kernels, generators."""

from __future__ import annotations

import ctypes
import gc
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

DROPOUT = 1  # tells dropout's generator from others that are made of the same seed


M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # glibc's malloc.h

CONTEXT_BYTES = 600 * 2**20
"""Of a CUDA context with torch's kernels, which lies outside of what torch's allocator counts and limits."""


def prepare_process(device: torch.device, threads: int, *, deterministic: bool = False, gpu_share: float = 1.0) -> None:
    """Set torch's threads, device, kernels and use of memory, and forget the peak of a run that came before.

    deterministic: kernels that give the same bits each time; torch raises a RuntimeError where it has none.
    gpu_share: of the GPU's memory, that this process may use at most.
    """
    torch.set_num_threads(threads)  # Ray sets OMP_NUM_THREADS=1
    if deterministic:  # cuBLAS reads it as it starts; without it the parts of a product are added in any order
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(deterministic)
    # Nothing of ours reads memory that it has not written, and filling it takes time.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.deterministic = deterministic
    torch.backends.cudnn.benchmark = False  # `timed_kernels` sets it
    if device.type == "cuda":
        torch.cuda.set_device(device)
        total = torch.cuda.get_device_properties(device).total_memory
        limit = 1.0 if gpu_share == 1 else max(0.0, gpu_share - CONTEXT_BYTES / total)
        torch.cuda.set_per_process_memory_fraction(limit, device)
        torch.cuda.reset_peak_memory_stats(device)
    else:
        _keep_freed_memory()
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")


@contextmanager
def timed_kernels(enabled: bool) -> Iterator[None]:
    """Within the block cuDNN times its algorithms for each new shape, if enabled; else it takes its heuristics' choice.

    What was found is kept by the process, for this run and the next. Deterministic kernels are never chosen by timing.
    """
    torch.backends.cudnn.benchmark = enabled and not torch.are_deterministic_algorithms_enabled()
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = False


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
