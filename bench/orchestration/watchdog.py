"""Notices ranks that make no progress, and describes the process of such a rank from outside. Knows no Ray."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import psutil

BEFORE_FIRST_STEP = 3.0
"""How many times the patience counts before the first step: until then a run loads data, compiles and chooses
kernels."""
OF_LONGEST_PAUSE = 10.0
"""How many times the longest pause between two steps so far a pause may last, if that is more than the patience."""
LONGEST_GAP_S = 10.0
"""The most seconds that count between two looks at the ranks: while the driver was suspended, they may have been so,
too."""
REPORT_TIMEOUT_S = 30.0


class Watchdog:
    """Measures for how long the ranks of one attempt at a run have made no step of training or validation.

    Args:
        ranks: The number of ranks.
        patience_s: Seconds that a rank may pause between two steps.
        now: The present time in seconds, of the same clock as in `look`.
    """

    def __init__(self, ranks: int, patience_s: float, now: float) -> None:
        self._patience_s = patience_s
        self._looked_at = now
        self._steps: dict[int, int] = {}
        self._pauses_s = [0.0] * ranks
        self._stepping = False
        self._longest_s = 0.0

    def look(self, steps: Mapping[int, int], now: float) -> float | None:
        """Compare the ranks' counters of steps with those of earlier looks.

        Args:
            steps: The counters of the ranks that have answered since the last look, by rank.
            now: The present time in seconds.

        Returns:
            None while all ranks make progress or may still be patient, otherwise the seconds for which at least one of
            them has made none.
        """
        passed, self._looked_at = min(now - self._looked_at, LONGEST_GAP_S), now
        self._pauses_s = [pause + passed for pause in self._pauses_s]
        for rank, count in steps.items():
            if self._steps.setdefault(rank, count) != count:
                if self._stepping:
                    self._longest_s = max(self._longest_s, self._pauses_s[rank])
                self._steps[rank], self._pauses_s[rank], self._stepping = count, 0.0, True
        pause = max(self._pauses_s)
        return pause if pause > self._allowed_s else None

    @property
    def _allowed_s(self) -> float:
        if not self._stepping:
            return BEFORE_FIRST_STEP * self._patience_s
        return max(self._patience_s, OF_LONGEST_PAUSE * self._longest_s)


def process_state(process: int) -> str:
    """Return the state of a process of this machine, such as `stopped` or `disk-sleep`, or `gone`."""
    try:
        return str(psutil.Process(process).status())
    except psutil.NoSuchProcess:
        return "gone"


def stacks_from_outside(process: int) -> str:
    """Return the stacks of a process of this machine, as py-spy shows them, or why it does not.

    A process that is stopped, or that waits for a disk, cannot print its stacks itself.
    """
    places = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    tool = shutil.which("py-spy", path=places)
    if tool is None:
        return "py-spy, which would show them, is not installed"
    try:
        done = subprocess.run(
            [tool, "dump", "--nonblocking", "--pid", str(process)],
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=REPORT_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return "py-spy does not answer"
    return f"{done.stdout}{done.stderr}".strip()
