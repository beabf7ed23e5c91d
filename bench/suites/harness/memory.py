"""The memory of a process and of all processes below it, in which shared pages count once."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil

MEMORY = "peak memory, GiB"
SAMPLING_PERIOD_S = 0.2


def memory_gib(root: psutil.Process) -> float:
    """Returns the anonymous and shared memory of a process and of all processes below it, in GiB.

    Each page is divided by the number of processes that share it (PSS). Pages of mapped files do not count, because the
    kernel can drop them at any time.
    """
    kib = 0
    with contextlib.suppress(psutil.NoSuchProcess):
        for process in (root, *root.children(recursive=True)):
            with contextlib.suppress(OSError):  # the process has ended in the meantime
                for line in Path(f"/proc/{process.pid}/smaps_rollup").read_text(encoding="utf-8").splitlines():
                    if line.startswith(("Pss_Anon:", "Pss_Shmem:")):
                        kib += int(line.split()[1])
    return kib / 2**20


@contextlib.contextmanager
def peak_memory(root: psutil.Process) -> Iterator[Callable[[], float]]:
    """Samples `memory_gib` while the block runs, and yields a function that returns the peak so far, in GiB."""
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
