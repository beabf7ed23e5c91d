"""Measures on the head node how long the parts of a job's start take."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from typing import Final

JOB_BEGAN: Final = "DEEPER_JOB_BEGAN"
"""Environment variable in which the job script says when it began, in seconds since 1970."""


class StartUp:
    """Notes when the parts of a job's start have ended, each of which begins where the one before it ended.

    Args:
        environment: Environment variables, of which `JOB_BEGAN` says when the job began. Without it, as in scripts of
            older submissions, the job begins with this object.
        clock: Returns the time in seconds since 1970.
    """

    def __init__(self, environment: Mapping[str, str] = os.environ, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        now = clock()
        try:
            began = float(environment.get(JOB_BEGAN, now))
        except ValueError:
            began = now
        self._ends: dict[str, float] = {"": began}

    def ended(self, part: str) -> None:
        """Note that a part of the start has ended just now."""
        self._ends[part] = self._clock()

    @property
    def seconds(self) -> dict[str, float]:
        """The seconds that each part has taken, in their order."""
        names, times = [*self._ends], [*self._ends.values()]
        return {name: end - begin for name, begin, end in zip(names[1:], times, times[1:], strict=False)}

    def __str__(self) -> str:
        """Describe the parts so far, e.g. "9.1 s after the job began (launcher 2.1 s, Ray 7.0 s)"."""
        parts = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in self.seconds.items())
        return f"{sum(self.seconds.values()):.1f} s after the job began ({parts})"
