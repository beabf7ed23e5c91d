"""Makes the report of an experiment while its runs train, so that a first one stands as soon as a run has finished."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from bench.console.exit_codes import DONE
from bench.machine.children import end_with_parent

NICENESS = 10
"""Added to the niceness of the process that makes a report, since the trainings need the same cores."""
PAUSE_S = 60.0
"""The shortest time between the end of a report and the start of the next one."""
PUBLISHED_AFTER_S = 5.0
"""Seconds that the publisher gets to publish a run that has finished."""


def report_command(experiment: str, records: Path) -> list[str]:
    """Return the command line of `deeper report`.

    Args:
        experiment: The experiment as `deeper run` got it: a name, or the path of its file.
        records: The folder of the records.
    """
    return [sys.executable, "-m", "bench.cli", "report", experiment, "--records", str(records)]


class InterimReports:
    """Makes reports in processes of low priority, one at a time, after runs have finished.

    Args:
        command: The command line that makes a report. It prints the path of the page.
        log: The file to which its standard error is appended. Its folder exists.
    """

    def __init__(self, command: Sequence[str], log: Path) -> None:
        self._command = [*command, "--no-attach"]
        self._log = log
        self._process: subprocess.Popen[str] | None = None
        self._covered = 0
        self._due: float | None = None
        self._not_before = 0.0
        self._has_told = False

    def update(self, finished: int) -> str | None:
        """Start a report if runs have finished since the last one, or notice that one is made. Does not wait.

        Args:
            finished: The number of runs that have finished so far.

        Returns:
            A sentence on the first report once it is made; None otherwise.
        """
        if self._process is not None:
            return self._ended() if self._process.poll() is not None else None
        now = time.monotonic()
        if finished > self._covered and self._due is None:
            self._due = max(now + PUBLISHED_AFTER_S, self._not_before)
        if self._due is not None and now >= self._due:
            self._due, self._covered = None, finished
            with self._log.open("ab") as log:
                self._process = subprocess.Popen(
                    self._command,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    text=True,
                    start_new_session=True,
                    preexec_fn=_yielding,
                )
        return None

    def close(self) -> None:
        """End the process of a report that is being made. The files of the one before stay."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def _ended(self) -> str | None:
        assert self._process is not None
        page, _ = self._process.communicate()
        code = self._process.returncode
        self._process, self._not_before = None, time.monotonic() + PAUSE_S
        if code != DONE or self._has_told:  # the next report, or the last one, says what is wrong
            return None
        self._has_told = True
        return f"a first report, of {self._covered} finished run{'s' * (self._covered > 1)}: {page.strip()}"


def _yielding() -> None:
    end_with_parent()
    os.nice(NICENESS)
