"""Measures the memory of a process and all its descendants, in which each shared page counts once. Needs Linux."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil

MEMORY = "peak memory, GiB"
SAMPLING_PERIOD_S = 0.2


def memory_gib(root: psutil.Process) -> float:
    """Return the anonymous and shared memory of a process and all its descendants, in GiB.

    Each page is divided by the number of processes that share it (PSS, from `/proc/<pid>/smaps_rollup`). Pages of
    mapped files are left out, because the kernel can drop them at any time. Processes that have ended and those that
    this user may not inspect contribute nothing, so that the result is 0 if `root` has ended.
    """
    kib = 0
    with contextlib.suppress(psutil.NoSuchProcess):
        for process in (root, *root.children(recursive=True)):
            with contextlib.suppress(OSError):  # the process has ended in the meantime
                for line in Path(f"/proc/{process.pid}/smaps_rollup").read_text(encoding="utf-8").splitlines():
                    if line.startswith(("Pss_Anon:", "Pss_Shmem:")):
                        kib += int(line.split()[1])
    return kib / 2**20


def own_peak_gib() -> float:
    """Return the largest resident memory of this process since it began its program, in GiB.

    `getrusage` also counts that of the process from which this one was forked.
    """
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    (kib,) = (line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(kib) / 2**20


@contextlib.contextmanager
def peak_memory(root: psutil.Process) -> Iterator[Callable[[], float]]:
    """Sample `memory_gib(root)` in a thread while the block runs, every 0.2 s (`SAMPLING_PERIOD_S`).

    Peaks between two samples are missed.

    Yields:
        A function that returns the largest sample so far, in GiB. It may also be called after the block.
    """
    peak_gib = memory_gib(root)
    is_over = threading.Event()

    def sample() -> None:
        nonlocal peak_gib
        while not is_over.wait(SAMPLING_PERIOD_S):
            peak_gib = max(peak_gib, memory_gib(root))

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield lambda: peak_gib
    finally:
        is_over.set()
        thread.join()
