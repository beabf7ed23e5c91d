"""Why SLURM sends a signal to a job, and whether the job has been asked to stop."""

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
"""SLURM itself ends or requeues the job; asking for another requeue would undo that."""
TO_BE_REQUEUED = (PREEMPTED, TIME_LIMIT)


class StopRequest:
    """Whether the job has been asked to stop, by a signal or by the batch script's stop file.

    `deeper run` watches the stop file, too, so a signal is passed on by writing that file.
    """

    def __init__(self, file: Path, find_reason: Callable[[], str]) -> None:
        """Watch `file`; `find_reason` is called once, after the first signal."""
        self.file = file
        self.reason: str | None = None
        """Why the signal came; None if there was none."""
        self._find_reason = find_reason
        self._signalled = False

    def listen(self) -> None:
        """Take SIGTERM and SIGINT of this process as requests to stop."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._note)

    def is_set(self) -> bool:
        """Whether the job is to stop. Passes a signal on by writing the stop file."""
        if self._signalled and self.reason is None:
            self.reason = self._find_reason()
            if not self.file.exists():
                self.file.write_text(self.reason, encoding="utf-8")
        return self.file.exists()

    def _note(self, _number: int, _frame: FrameType | None) -> None:
        self._signalled = True


def termination_reason(allocation: Allocation) -> str:
    """Ask SLURM what a SIGTERM means to this job; `TERMINATED` if SLURM does not answer."""
    try:
        description = queries.run_command("scontrol", "show", "job", "-o", allocation.queue_id)
    except SlurmError:
        return TERMINATED
    return parse_termination_reason(description, allocation.restarts)


def parse_termination_reason(description: str, restarts: int) -> str:
    """Read the reason from a job's line of `scontrol show job -o`.

    SLURM 22.05 shows it within milliseconds of the signal. A preemption without grace time looks like any other
    requeue.

    Args:
        description: The line that `scontrol` prints.
        restarts: How often the job had been requeued when its current start began.
    """
    fields = dict(re.findall(r"(\w+)=(\S*)", description))
    if fields.get("PreemptTime", "None") != "None":
        return PREEMPTED
    if fields.get("Reason") == "TimeLimit":
        return TIME_LIMIT
    if int(fields.get("Restarts", 0)) > restarts:
        return REQUEUED
    return CANCELLED if fields.get("JobState") in ("COMPLETING", "CANCELLED") else TERMINATED
