"""Makes control groups that limit the memory of processes, the files that are cached for them included.

Both versions of control groups are supported. A group is made below that of this process or below one that encloses it;
root can do so, and so can a user to whom systemd has delegated a group.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.suites.harness.errors import BenchmarkError
from reproduce.limits import ROOT, control_groups

_LIMITS = ("memory.max", "memory.limit_in_bytes")  # of versions 2 and 1, as in the following
_USED = ("memory.current", "memory.usage_in_bytes")
_CACHED = ("file", "cache")
_KEEP_FROM_SWAP = {"memory.swap.max": "0", "memory.swappiness": "0"}
_PATIENCE_S = 10.0


class NoControlGroupError(BenchmarkError):
    """Raised if no control group can be made on this machine. The message says why."""


@dataclass(frozen=True)
class MemoryGroup:
    """A control group that limits memory. It may be sent to another process, which can then join it."""

    folder: Path
    """The folder of the group in the file system of control groups."""

    def join(self) -> None:
        """Move this process into the group, and with it all threads and all processes that it starts later.

        Memory that the process has used before is not counted.
        """
        (self.folder / "cgroup.procs").write_text(str(os.getpid()), encoding="utf-8")

    def limit(self, size: int) -> None:
        """Set the most memory in bytes that the processes of the group may use, together with the files they cache."""
        self._file(_LIMITS).write_text(str(size), encoding="utf-8")

    def used_beside_files(self) -> int:
        """Return the bytes that count for the group without those of cached files: of its processes and of the kernel.

        Memory that processes share counts, although the kernel calls it cached.
        """
        words = _words(self.folder / "memory.stat")
        statistics = dict(zip(words[::2], map(int, words[1::2]), strict=True))
        cached = next(statistics[name] for name in _CACHED if name in statistics)
        (used,) = _words(self._file(_USED))
        return int(used) - cached + statistics["shmem"]

    def _file(self, names: tuple[str, str]) -> Path:
        return next(self.folder / name for name in names if (self.folder / name).exists())


@contextmanager
def memory_group() -> Iterator[MemoryGroup]:
    """Make a control group without a limit, and remove it when the block is left and its processes have ended.

    Raises:
        NoControlGroupError: No group can be made here.
    """
    group = _make_group()
    try:
        yield group
    finally:
        _remove(group.folder)


def _make_group() -> MemoryGroup:
    reasons = []
    for parent in control_groups(ROOT, "memory"):
        try:
            return _make_group_in(parent)
        except OSError as error:
            reasons.append(f"{parent}: {error.strerror or error}")
    raise NoControlGroupError("; ".join(reasons) or "this machine has no control groups for memory")


def _make_group_in(parent: Path) -> MemoryGroup:
    """Make a group below another one.

    Raises:
        OSError: This user or this machine does not permit it.
    """
    if (parent / "cgroup.subtree_control").exists() and "memory" not in _words(parent / "cgroup.subtree_control"):
        if "memory" not in _words(parent / "cgroup.controllers"):
            raise OSError("version 2 does not limit memory there")
        (parent / "cgroup.subtree_control").write_text("+memory", encoding="utf-8")
    folder = Path(tempfile.mkdtemp(prefix="deeper-", dir=parent))
    try:
        for name, value in _KEEP_FROM_SWAP.items():
            if (folder / name).exists():
                (folder / name).write_text(value, encoding="utf-8")
        # A shell tries to join, because this process could perhaps not leave the group again.
        joined = subprocess.run(["sh", "-c", 'echo $$ > "$0"', folder / "cgroup.procs"], capture_output=True)
        if joined.returncode or not any((folder / name).exists() for name in _LIMITS):
            raise OSError(joined.stderr.decode().strip() or "the group has no limit of memory")
    except OSError:
        _remove(folder)
        raise
    return MemoryGroup(folder)


def _remove(folder: Path) -> None:
    deadline = time.monotonic() + _PATIENCE_S
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError):  # a process of the group is still ending
            folder.rmdir()
            return
        time.sleep(0.05)
    folder.rmdir()


def _words(file: Path) -> list[str]:
    return file.read_text(encoding="utf-8").split()
