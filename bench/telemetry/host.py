"""Readings of the host: CPU and memory of the whole machine, and memory of this process and its children."""

from __future__ import annotations

import psutil

GIB = 2**30


class HostReader:
    """Reads the host; CPU use is measured between two reads."""

    def __init__(self) -> None:
        self._process = psutil.Process()
        self._times = _cpu_seconds()

    def read(self) -> dict[str, float]:
        """Read the host.

        Returns:
            cpu_percent (of all cores, since the last read), memory_gib (used on the host) and rss_gib (resident memory
            of this process and its children). cpu_percent is absent if no time has passed.
        """
        before, self._times = self._times, _cpu_seconds()
        total, idle = (now - then for now, then in zip(self._times, before, strict=True))
        readings = {"memory_gib": psutil.virtual_memory().used / GIB, "rss_gib": self._tree_bytes() / GIB}
        if total > 0:
            readings["cpu_percent"] = 100.0 * (total - idle) / total
        return readings

    def _tree_bytes(self) -> int:
        size = int(self._process.memory_info().rss)
        for child in self._process.children(recursive=True):
            try:
                size += child.memory_info().rss
            except psutil.NoSuchProcess:  # it has ended since it was listed
                continue
        return size


def _cpu_seconds() -> tuple[float, float]:
    """Seconds of all cores since boot: total and idle."""
    times = psutil.cpu_times()
    # Guest time is part of user time and must not count twice.
    total = sum(times) - getattr(times, "guest", 0.0) - getattr(times, "guest_nice", 0.0)
    return total, times.idle + getattr(times, "iowait", 0.0)
