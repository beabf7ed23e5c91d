"""Distributes runs among the executors of one driver, which share a queue, and among drivers, by means of leases."""

from __future__ import annotations

import threading
from collections.abc import Sequence, Set
from pathlib import Path

from bench.records.leases import Lease, try_acquire
from bench.records.states import run_folder
from reproduce.spec import PlannedRun


class RunQueue:
    """A thread-safe queue that hands out each run once, in order, together with its lease.

    A run whose lease another driver holds is skipped and stays in the queue for later calls.

    Args:
        runs: The runs to hand out.
        records: The folder of the records.
    """

    def __init__(self, runs: Sequence[PlannedRun], records: Path) -> None:
        self._waiting = list(runs)
        self._refused: set[str] = set()
        self._records = records
        self._lock = threading.Lock()

    def claim(self, but: Set[str] = frozenset()) -> tuple[PlannedRun, Lease] | None:
        """Take the first run whose lease is free out of the queue and acquire its lease. Does not wait.

        Args:
            but: Keys of runs that are skipped and stay in the queue.

        Returns:
            The run and its lease, which the caller releases; None if there is no such run.

        Raises:
            OSError: The lease file could not be opened, locked or written, for example on a full disk. The run is then
                removed from the queue; otherwise every later call would fail on it.
        """
        with self._lock:
            for run in [run for run in self._waiting if run.key not in but]:
                try:
                    lease = try_acquire(run_folder(self._records, run.key))
                except BaseException:
                    self._waiting.remove(run)
                    raise
                if lease is not None:
                    self._waiting.remove(run)
                    return run, lease
        return None

    def give_back(self, run: PlannedRun) -> None:
        """Put a run back that an executor may not resume, for executors whose workers compute differently."""
        with self._lock:
            self._waiting.append(run)
            self._refused.add(run.key)

    @property
    def unclaimed(self) -> list[PlannedRun]:
        """The runs that have neither been handed out nor been given back.

        Once `claim` has returned None, these are the runs whose leases other drivers hold.
        """
        with self._lock:
            return [run for run in self._waiting if run.key not in self._refused]
