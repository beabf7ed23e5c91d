"""Memory of processes, shared pages counted once."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil

MEMORY = "peak memory, GiB"
PERIOD_S = 0.2


def memory_gib(root: psutil.Process) -> float:
    """Anonymous and shared pages of a process and all below it, each page divided by those that share it (PSS).

    Pages of mapped files are left out: they can be dropped at any time.
    """
    kib = 0
    with contextlib.suppress(psutil.NoSuchProcess):
        for process in (root, *root.children(recursive=True)):
            with contextlib.suppress(OSError):  # it ended meanwhile
                for line in Path(f"/proc/{process.pid}/smaps_rollup").read_text(encoding="utf-8").splitlines():
                    if line.startswith(("Pss_Anon:", "Pss_Shmem:")):
                        kib += int(line.split()[1])
    return kib / 2**20


@contextlib.contextmanager
def peak_memory(root: psutil.Process) -> Iterator[Callable[[], float]]:
    """Sample `memory_gib` while the block runs; the call gives the largest so far."""
    peak, over = [memory_gib(root)], threading.Event()

    def sample() -> None:
        while not over.wait(PERIOD_S):
            peak.append(max(peak[-1], memory_gib(root)))

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield lambda: peak[-1]
    finally:
        over.set()
        thread.join()
