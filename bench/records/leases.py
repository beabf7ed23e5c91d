"""Leases that let several drivers work on one experiment at the same time without training any run twice.

A lease is a `flock` on a file in the run's folder. A driver holds the lease as long as it works on the run, and the
kernel releases it when the driver's process ends for any reason. The content of the file names the holder for people.
Drivers on several hosts need a file system whose locks reach all of them (`bench.machine.filesystems`). Publishers
take turns by a lease on their own folder.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path
from types import TracebackType

from reproduce.files.locks import try_lock

LEASE = "lease"


class Lease:
    """The exclusive right of a process to work on a run, held until `release` or until the end of a `with` block.

    Args:
        descriptor: The file descriptor that holds the lock. The lease closes it.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def release(self) -> None:
        """Give up the lease. Call this once, and not in addition to a `with` block."""
        os.close(self._descriptor)

    def __enter__(self) -> Lease:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.release()


def try_acquire(folder: Path, name: str = LEASE) -> Lease | None:
    """Try to acquire the lease of a run, or of another folder, without waiting.

    Args:
        folder: The run's record folder, which is created if necessary.
        name: The name of the file.

    Returns:
        The lease, which the caller releases; None if another process holds it.

    Raises:
        OSError: The lease file could not be opened, locked or written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = try_lock(folder / name)
    if descriptor is None:
        return None
    lease = Lease(descriptor)
    try:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, _this_process().encode(), 0)
    except BaseException:
        lease.release()
        raise
    return lease


def holder(folder: Path, name: str = LEASE) -> str:
    """The process that last acquired a folder's lease, for example `n1 (process 4711, SLURM job 17)`.

    Raises:
        FileNotFoundError: No process has acquired the lease yet.
    """
    return (folder / name).read_text(encoding="utf-8").strip()


def _this_process() -> str:
    job, array = os.environ.get("SLURM_JOB_ID"), os.environ.get("SLURM_ARRAY_JOB_ID")
    if array:  # an element has an id of its own, which nobody is told
        job = f"{array}_{os.environ.get('SLURM_ARRAY_TASK_ID')}"
    return f"{socket.gethostname()} (process {os.getpid()}{f', SLURM job {job}' if job else ''})\n"
