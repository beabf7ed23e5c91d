"""The runs that are still to be done: the executors of one driver share a queue, several drivers share the runs."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

from bench.orchestration.leases import Lease, try_acquire
from bench.records.states import run_folder
from reproduce.spec import PlannedRun


class RunQueue:
    """Hands out runs in their order, each once, and passes over those whose lease another driver holds.

    All methods may be called from several threads.
    """

    def __init__(self, runs: Sequence[PlannedRun], records: Path) -> None:
        self._waiting = list(runs)
        self._records = records
        self._lock = threading.Lock()

    def claim(self) -> tuple[PlannedRun, Lease] | None:
        """The first run whose lease is free, with that lease; None if there is no such run.

        A run whose lease cannot be asked for, for example because of a full disk, leaves the queue: otherwise every
        later call would fail on it.

        Raises:
            OSError: The lease file could not be opened, locked or written.
        """
        with self._lock:
            for run in list(self._waiting):
                try:
                    lease = try_acquire(run_folder(self._records, run.key))
                except BaseException:
                    self._waiting.remove(run)
                    raise
                if lease is not None:
                    self._waiting.remove(run)
                    return run, lease
        return None

    @property
    def unclaimed(self) -> list[PlannedRun]:
        """The runs that have not been handed out; after the last executor's end, those that other drivers hold."""
        with self._lock:
            return list(self._waiting)
