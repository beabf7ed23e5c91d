"""Which driver carries out a run: several may work on one experiment at once, and no run is done twice.

A lease is a `flock` on a file in the run's folder, held while the driver has the run in hand, so it ends with the
driver however that ends. The file's content, for people, says who holds it. On several hosts this needs a file system
whose `flock` reaches all of them (`bench.machine.filesystems`).
"""

from __future__ import annotations

import os
import socket
from pathlib import Path

from bench.records.locks import try_lock

LEASE = "lease"


class Lease:
    """A run in this driver's hands until `release`."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def release(self) -> None:
        os.close(self._descriptor)


def take(folder: Path) -> Lease | None:
    """Take the lease of a run; None where another driver has it."""
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = try_lock(folder / LEASE)
    if descriptor is None:
        return None
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, _who().encode(), 0)
    return Lease(descriptor)


def holder(folder: Path) -> str:
    """Who took the lease of a run last, e.g. `n1 (process 4711, SLURM job 17)`."""
    return (folder / LEASE).read_text(encoding="utf-8").strip()


def _who() -> str:
    job = os.environ.get("SLURM_JOB_ID")
    return f"{socket.gethostname()} (process {os.getpid()}{f', SLURM job {job}' if job else ''})\n"
