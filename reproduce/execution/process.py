"""The set-up of a rank's process: threads, memory, kernels and random generators."""

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

DROPOUT = 1  # separates dropout's generator from others that are derived from the same seed

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # glibc's malloc.h

CONTEXT_BYTES = 600 * 2**20
"""Memory of a CUDA context with torch's kernels, which torch's allocator neither counts nor limits."""


def prepare_process(device: torch.device, threads: int, *, deterministic: bool = False, gpu_share: float = 1.0) -> None:
    """Set torch's threads, device, kernels and memory limits, and reset the peak memory of an earlier run.

    Args:
        device: The device that this process computes on.
        threads: CPU threads of torch.
        deterministic: Choose kernels that give the same bits each time. torch raises a RuntimeError for an operation
            that has none.
        gpu_share: Share of the GPU's memory that this process may use, above 0 and at most 1.
    """
    torch.set_num_threads(threads)  # Ray sets OMP_NUM_THREADS=1
    if deterministic:  # cuBLAS reads this when it starts; without it, it sums the parts of a product in any order
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(deterministic)
    # No code of this project reads memory before it has written it, and filling that memory takes time.
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
    """Let cuDNN time its algorithms for each new shape within the block, if enabled; otherwise its heuristics choose.

    The process keeps the choices for this run and for later ones. Deterministic kernels are never chosen by timing.
    """
    torch.backends.cudnn.benchmark = enabled and not torch.are_deterministic_algorithms_enabled()
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = False


def _keep_freed_memory() -> None:
    """Make glibc keep memory that is freed from now on, after it has returned what was freed before.

    Otherwise every step maps its activations anew, and the kernel clears about a hundred thousand pages for each step
    at 224 pixels.
    """
    gc.collect()  # reference cycles may still hold the memory of a run that has ended
    with suppress(OSError, AttributeError):  # another C library
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_MAX, 0)
        libc.mallopt(M_TRIM_THRESHOLD, -1)
        libc.malloc_trim(0)


def peak_memory_gib(device: torch.device) -> float:
    """Peak memory in GiB: of the CUDA allocator on a GPU, resident memory of the process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # in KiB on Linux


def dropout_seed(seed: int, rank: int) -> int:
    """The seed of a rank's dropout, derived from the run's augmentation seed."""
    return int(np.random.SeedSequence([seed, rank, DROPOUT]).generate_state(1, np.uint64)[0])


def get_generator_states(device: torch.device) -> list[Tensor]:
    """States of torch's random generators: that of the CPU, then that of the device if it is a GPU."""
    states = [torch.get_rng_state()]
    return [*states, torch.cuda.get_rng_state(device)] if device.type == "cuda" else states


def set_generator_states(states: list[Tensor], device: torch.device) -> None:
    """Restore what `get_generator_states` returned."""
    torch.set_rng_state(states[0])
    if device.type == "cuda":
        torch.cuda.set_rng_state(states[1], device)
