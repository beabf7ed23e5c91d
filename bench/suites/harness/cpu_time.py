"""Measures the CPU time of a process and everything that it has started. Needs Linux for the descendants."""

from __future__ import annotations

import resource
import time
from contextlib import suppress

import psutil


def cpu_seconds() -> float:
    """Return the CPU time of this process and all its descendants so far, in user and kernel mode, in seconds.

    Descendants that have ended count as well once their parents have waited for them, so that the difference of two
    calls holds worker processes that lived only in between.
    """
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    total = time.process_time() + ended.ru_utime + ended.ru_stime
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            total += times.user + times.system + times.children_user + times.children_system
    return total
