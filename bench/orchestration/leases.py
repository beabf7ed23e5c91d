"""Leases: several drivers may work on one experiment at the same time, and no run is trained by two of them.

A lease is a `flock` on a file in the run's folder. A driver holds it for as long as it works on the run, so the lease
ends with the driver, whatever ends the driver. The file's content tells people who holds it. Drivers on several hosts
need a file system whose locks reach all of them (`bench.machine.filesystems`).
"""

from __future__ import annotations

import os
import socket
from pathlib import Path
from types import TracebackType

from bench.records.locks import try_lock

LEASE = "lease"


class Lease:
    """The right to work on a run, held until `release` or until the end of a `with` block."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def release(self) -> None:
        os.close(self._descriptor)

    def __enter__(self) -> Lease:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.release()


def try_acquire(folder: Path) -> Lease | None:
    """Acquire the lease of the run recorded in `folder`; None if another driver holds it."""
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = try_lock(folder / LEASE)
    if descriptor is None:
        return None
    lease = Lease(descriptor)
    try:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, _this_driver().encode(), 0)
    except BaseException:
        lease.release()
        raise
    return lease


def holder(folder: Path) -> str:
    """The driver that acquired the lease last, for example `n1 (process 4711, SLURM job 17)`."""
    return (folder / LEASE).read_text(encoding="utf-8").strip()


def _this_driver() -> str:
    job = os.environ.get("SLURM_JOB_ID")
    return f"{socket.gethostname()} (process {os.getpid()}{f', SLURM job {job}' if job else ''})\n"
