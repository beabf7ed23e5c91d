"""Records requests to stop a job, and finds out why SLURM sent it a signal."""

from __future__ import annotations

import re
import signal
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Final

from slurm import queries
from slurm.job.node.allocation import Allocation
from slurm.queries import SlurmError

CANCELLED: Final = "cancelled"
PREEMPTED: Final = "preempted"
TIME_LIMIT: Final = "time limit"
REQUEUED: Final = "requeued by SLURM"
TERMINATED: Final = "terminated"  # by something other than SLURM

ENDED_BY_SLURM = (CANCELLED, REQUEUED)
"""Reasons for which SLURM itself ends or requeues the job, so that another requeue would undo its decision."""
TO_BE_REQUEUED = (PREEMPTED, TIME_LIMIT)
"""Reasons after which the job requeues itself, so that it continues later."""


class StopRequest:
    """A request to stop the job, made by a signal to this process or by a stop file.

    `deeper run` also watches the stop file. A signal is therefore passed on to it by writing that file, which
    `pass_on` and `is_set` do: call one of them regularly.
    """

    def __init__(self, file: Path, find_reason: Callable[[], str]) -> None:
        """Create an object without a request. No signal is handled before `listen` is called.

        Args:
            file: The stop file, which the batch script or this object writes.
            find_reason: Finds out why a signal was sent. It is called once, after the first signal.
        """
        self.file = file
        self.reason: str | None = None
        """Why the signal was sent; None if there was no signal or it has not been passed on yet."""
        self._find_reason = find_reason
        self._signalled = False

    def listen(self) -> None:
        """Install handlers that treat SIGTERM and SIGINT of this process as requests to stop; main thread only."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._note)

    def pass_on(self) -> None:
        """Write the stop file if a signal has arrived, unless it exists already. Without a signal this does nothing.

        The first call after a signal finds out the reason, which may take as long as SLURM needs to answer.
        """
        if self._signalled and self.reason is None:
            self.reason = self._find_reason()
            if not self.file.exists():
                self.file.write_text(self.reason, encoding="utf-8")

    def is_set(self) -> bool:
        """Pass a signal on, and return whether the job is to stop, that is, whether the stop file exists."""
        self.pass_on()
        return self.file.exists()

    def _note(self, _number: int, _frame: FrameType | None) -> None:
        self._signalled = True


def termination_reason(allocation: Allocation) -> str:
    """Ask SLURM why it sent SIGTERM to this job.

    Returns:
        `CANCELLED`, `PREEMPTED`, `TIME_LIMIT`, `REQUEUED`, or `TERMINATED` if SLURM gives no reason or no answer.
    """
    try:
        description = queries.run_command("scontrol", "show", "job", "-o", allocation.queue_id)
    except SlurmError:
        return TERMINATED
    return parse_termination_reason(description, allocation.restarts)


def parse_termination_reason(description: str, restarts: int) -> str:
    """Find the reason for a signal in a job's line of `scontrol show job -o`.

    SLURM 22.05 shows the reason within milliseconds of the signal. A preemption without grace time cannot be told from
    any other requeue.

    Args:
        description: The line that `scontrol` prints.
        restarts: Number of times that the job had been requeued when its current start began.

    Returns:
        `CANCELLED`, `PREEMPTED`, `TIME_LIMIT`, `REQUEUED`, or `TERMINATED` if the line gives no reason.
    """
    fields = dict(re.findall(r"(\w+)=(\S*)", description))
    if fields.get("PreemptTime", "None") != "None":
        return PREEMPTED
    if fields.get("Reason") == "TimeLimit":
        return TIME_LIMIT
    if int(fields.get("Restarts", 0)) > restarts:
        return REQUEUED
    return CANCELLED if fields.get("JobState") in ("COMPLETING", "CANCELLED") else TERMINATED
