"""Reads CPU use and memory of the whole host, and the memory of this process and its descendants."""

from __future__ import annotations

import psutil

GIB = 2**30


class HostReader:
    """Reads CPU use and memory of the host.

    CPU use is the average since the previous read or, for the first read, since the reader was created.
    """

    def __init__(self) -> None:
        self._process = psutil.Process()
        self._times = _cpu_seconds()

    def read(self) -> dict[str, float]:
        """Take one reading.

        Returns:
            A mapping with these keys:

            - cpu_percent: CPU use since the previous read, in percent; 100 means that all cores were busy. Absent if
              the kernel's clock has not advanced since then.
            - memory_gib: memory in use on the host, in GiB.
            - rss_gib: resident memory of this process and all its descendants together, in GiB.
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
    """Return the seconds since boot, summed over all cores: in total, and those spent idle."""
    times = psutil.cpu_times()
    # Guest time is part of user time and must not count twice.
    total = sum(times) - getattr(times, "guest", 0.0) - getattr(times, "guest_nice", 0.0)
    return total, times.idle + getattr(times, "iowait", 0.0)
