"""Prints the logs of jobs, and goes on while they grow."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

from slurm import queries
from slurm.queries import SlurmError
from slurm.status import ENDED, SubmittedJob

POLL_S = 1.0
ASK_EVERY_S = 15.0
"""Seconds between two questions to SLURM's controller, which all users of a cluster share."""
CHUNK = 2**20


def print_logs(jobs: Sequence[SubmittedJob], output: TextIO, *, lines: int | None = None, follow: bool = False) -> None:
    """Print the logs of jobs, each below its path where there are several.

    Args:
        jobs: The jobs; at least one.
        output: Where to print.
        lines: Number of lines at the end of each log to begin with; None for all.
        follow: Whether to go on until all jobs have ended and their logs are printed.
    """
    logs = [Log(path) for job in jobs for path in _paths(job)]
    shown = logs[0] if len(logs) == 1 else None
    states = {job.job.id: job.job.state for job in jobs}
    for log in logs if lines is not None else ():
        log.skip_to_last(lines or 0)
    for job in jobs:
        if not any(path.exists() for path in _paths(job)):
            reason = f" ({job.job.reason})" if job.job.reason else ""
            print(f"job {job.job.id} is {job.job.state}{reason} and has no log yet: {job.log}", file=output, flush=True)
    asked_at = time.monotonic()
    while True:
        ended = not follow or all(state in ENDED for state in states.values())
        for log in logs:
            while text := log.read():
                if shown is not log:
                    print(f"==> {log.path} <==", file=output)
                    shown = log
                output.write(text)
                output.flush()
        if ended:  # it was before the last reading
            return
        time.sleep(POLL_S)
        if time.monotonic() - asked_at > ASK_EVERY_S:
            asked_at = time.monotonic()
            states.update(_states(list(states)))


class Log:
    """A log that is read piece by piece. It is opened anew each time, so that a network file system shows its growth.

    Args:
        path: The file, which need not exist yet.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._offset = 0

    def skip_to_last(self, lines: int) -> None:
        """Leave out all but a number of lines at the end of what is there now."""
        if self.path.exists():
            text = self.path.read_bytes()
            self._offset = len(text) - sum(map(len, text.splitlines(keepends=True)[-lines:] if lines else []))

    def read(self) -> str:
        """Return what has been added since the last call, at most 1 MiB; empty if nothing has."""
        if not self.path.exists():
            return ""
        with self.path.open("rb") as file:
            file.seek(self._offset)
            piece = file.read(CHUNK)
        self._offset += len(piece)
        return piece.decode("utf-8", errors="replace")


def _paths(job: SubmittedJob) -> list[Path]:
    """Return the path of a job's log; of an array whose elements SLURM no longer knows, those of all elements."""
    elements = job.log.parent.glob(f"{job.log.stem}_*.log")
    return sorted(elements, key=lambda path: (len(path.name), path.name)) or [job.log]


def _states(ids: Sequence[str]) -> dict[str, str]:
    """Ask SLURM for the states of jobs; empty if it does not answer, so that it is asked again."""
    try:
        return {job.id: job.state for job in queries.jobs(ids) if job.id in ids}
    except SlurmError:
        return {}
