"""Set up the process of a rank: threads, memory, kernels and random generators."""

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
"""Memory in bytes of a CUDA context with torch's kernels. torch's allocator neither counts nor limits it."""


def prepare_process(device: torch.device, threads: int, *, deterministic: bool = False, gpu_share: float = 1.0) -> None:
    """Set torch's threads, device, kernels and memory limits for a run, and reset the peak memory of an earlier one.

    All settings apply to the whole process and stay until the next call. For runs on a CPU, freed memory is no longer
    returned to the operating system.

    Args:
        device: The device that this process computes on.
        threads: Number of CPU threads of torch.
        deterministic: Use kernels that give the same bits each time. torch then raises a RuntimeError at an operation
            that has no such kernel.
        gpu_share: Share of the GPU's memory that this process may use, above 0 and at most 1. Ignored on a CPU.
    """
    torch.set_num_threads(threads)  # Ray sets OMP_NUM_THREADS=1
    if deterministic:  # cuBLAS reads this when it starts; without it, it sums the parts of a product in any order
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    # use_deterministic_algorithms imports the compiler as well, which takes two seconds; `compile_parts` tells it.
    torch.set_deterministic_debug_mode("error" if deterministic else "default")
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
    """Let cuDNN choose its algorithms by timing them, instead of by its heuristics, within a block.

    The setting applies to the whole process; leaving the block switches timing off, whatever it was before. The process
    keeps the choices made, for this run and for later ones.

    Args:
        enabled: Whether to time the algorithms for each new shape. Ignored while torch uses deterministic algorithms,
            which are never chosen by timing.
    """
    torch.backends.cudnn.benchmark = enabled and not torch.are_deterministic_algorithms_enabled()
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = False


def _keep_freed_memory() -> None:
    """Make glibc return all memory freed so far to the operating system, and keep what is freed from now on.

    Otherwise every step maps memory for its activations anew, and the kernel clears about a hundred thousand pages in
    each step at 224 pixels. Does nothing with another C library.
    """
    gc.collect()  # reference cycles may still hold the memory of a run that has ended
    with suppress(OSError, AttributeError):  # another C library
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_MAX, 0)
        libc.mallopt(M_TRIM_THRESHOLD, -1)
        libc.malloc_trim(0)


def peak_memory_gib(device: torch.device) -> float:
    """Return the peak memory since `prepare_process`, in GiB.

    On a GPU it is the memory allocated by torch's CUDA allocator; on a CPU, the resident memory of the process.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # in KiB on Linux


def dropout_seed(seed: int, rank: int) -> int:
    """Derive the seed of a rank's dropout (unsigned, 64 bits) from the run's augmentation seed and the rank."""
    return int(np.random.SeedSequence([seed, rank, DROPOUT]).generate_state(1, np.uint64)[0])


def get_generator_states(device: torch.device) -> list[Tensor]:
    """Return the states of torch's global random generators: that of the CPU, then that of `device` if it is a GPU."""
    states = [torch.get_rng_state()]
    return [*states, torch.cuda.get_rng_state(device)] if device.type == "cuda" else states


def set_generator_states(states: list[Tensor], device: torch.device) -> None:
    """Restore the states of torch's global random generators that `get_generator_states` returned for `device`."""
    torch.set_rng_state(states[0])
    if device.type == "cuda":
        torch.cuda.set_rng_state(states[1], device)
