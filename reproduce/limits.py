"""The CPU cores and the memory that this process may use of its machine, which may be less than the machine has.

The number of cores is limited by the CPU affinity, by the quotas of control groups, and by what SLURM has granted;
memory by control groups and SLURM. On other systems than Linux only the machine itself sets a limit.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

ROOT = Path("/")
GIB = 2**30


@dataclass(frozen=True)
class Memory:
    """Memory that this process may use together with the others that share its limits, in bytes."""

    total: int
    available: int
    """What may still be allocated without swapping."""


@dataclass(frozen=True)
class KillsForMemory:
    """How many processes the kernel has killed because memory was short, and the limit that applies to this one."""

    machine: int
    """Processes of this machine, since it was started."""
    group: int
    """Processes of this process's own control group, such as a step of a SLURM job on this node."""
    limit: int | None = None
    """Bytes that this process may use together with the others of its control groups; None without a limit."""
    peak: int | None = None
    """Most bytes that these processes have used so far; None if there is no limit or the kernel does not say."""

    def over_limit(self, before: KillsForMemory) -> str | None:
        """Say, in the part of a sentence, which limit was met; None if the kernel has killed nobody for it since.

        Args:
            before: What was found earlier, on the same machine.
        """
        if self.group <= before.group or self.limit is None:
            return None
        peak = f" (peak: {self.peak / GIB:.2f} GiB)" if self.peak is not None else ""
        return f"the processes of this job may use {self.limit / GIB:.2f} GiB of memory{peak}"


def usable_cpus(root: Path = ROOT, environment: Mapping[str, str] = os.environ) -> int:
    """Return the number of logical CPUs that this process may use, at least 1.

    Args:
        root: The folder below which `/proc` and the control groups are read.
        environment: Environment variables, among them those that SLURM sets.
    """
    limits = [len(os.sched_getaffinity(0)), *_cpu_quotas(root)]
    if (granted := _slurm_cpus(environment)) is not None:
        limits.append(granted)
    return max(1, int(min(limits)))


def usable_cores(root: Path = ROOT, environment: Mapping[str, str] = os.environ) -> int:
    """Return the number of threads that computations may use: the physical cores, within `usable_cpus`."""
    cpus = usable_cpus(root, environment)
    return min(cpus, psutil.cpu_count(logical=False) or cpus)


def usable_memory(root: Path = ROOT, environment: Mapping[str, str] = os.environ) -> Memory:
    """Return the memory that this process may use: at most that of the machine.

    Args:
        root: The folder below which `/proc` and the control groups are read.
        environment: Environment variables, among them those that SLURM sets.
    """
    machine = psutil.virtual_memory()
    total, available = [machine.total], [machine.available]
    for limit, used, _ in _memory_limits(root):
        total.append(limit)
        available.append(max(0, limit - used))
    if (granted := _slurm_memory(environment)) is not None:
        total.append(granted)
    return Memory(min(total), min(*total, *available))


def kills_for_memory(root: Path = ROOT) -> KillsForMemory:
    """Count the processes that the kernel has killed because memory was short; 0 if it does not count them.

    Args:
        root: The folder below which `/proc` and the control groups are read.
    """
    machine = dict(line.split() for line in _lines(root / "proc/vmstat")).get("oom_kill", 0)
    group = next((kills for folder in control_groups(root, "memory") if (kills := _kills_in(folder)) is not None), 0)
    machine_total = psutil.virtual_memory().total
    limits = [(limit, folder) for limit, _, folder in _memory_limits(root) if limit < machine_total]
    if not limits:
        return KillsForMemory(int(machine), group)
    limit, folder = min(limits, key=lambda found: found[0])
    peak = _words(folder / "memory.peak") or _words(folder / "memory.max_usage_in_bytes")
    return KillsForMemory(int(machine), group, limit, int(peak[0]) if peak else None)


def _kills_in(folder: Path) -> int | None:
    """How many processes of a control group the kernel has killed; None if the group has no such counter."""
    for name in ("memory.events", "memory.oom_control"):  # version 2 and 1
        for line in _lines(folder / name):
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    return None


def _slurm_cpus(environment: Mapping[str, str]) -> int | None:
    """The CPUs of this node in the job. `salloc` sets only the second variable, whose first node is this one."""
    text = environment.get("SLURM_CPUS_ON_NODE") or environment.get("SLURM_JOB_CPUS_PER_NODE") or ""
    number = re.match(r"\d+", text)  # of, for example, 4(x2),3
    return int(number[0]) if number and int(number[0]) else None


def _slurm_memory(environment: Mapping[str, str]) -> int | None:
    """The bytes of this node in the job; None if SLURM does not limit them, for which it also says 0."""
    node, cpu = (environment.get(f"SLURM_MEM_PER_{unit}") or "" for unit in ("NODE", "CPU"))
    if node.isdecimal() and (mib := int(node)):
        return mib * 2**20
    mib = int(cpu) if cpu.isdecimal() else 0
    cpus = _slurm_cpus(environment)
    return mib * 2**20 * cpus if mib and cpus else None


def _cpu_quotas(root: Path) -> Iterator[float]:
    """The quotas of this process's control groups, in CPUs."""
    for folder in control_groups(root, "cpu"):
        quota, period = (_words(folder / "cpu.max") or ["max", "0"])[:2]  # version 2
        if quota == "max":
            (quota,), (period,) = (
                (_words(folder / f"cpu.cfs_{name}_us") or ["-1"])[:1] for name in ("quota", "period")
            )
        if int(quota) > 0 and int(period) > 0:
            yield int(quota) / int(period)


def _memory_limits(root: Path) -> Iterator[tuple[int, int, Path]]:
    """Limit, use and folder of each of this process's control groups that limits memory; sizes in bytes.

    Files that are cached but not in active use do not count as used, because the kernel drops them first.
    """
    names = (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    )
    for folder in control_groups(root, "memory"):
        for limit_name, used_name, cached_name in names:
            limit, used = _words(folder / limit_name), _words(folder / used_name)
            if limit and used and limit[0] != "max":
                words = _words(folder / "memory.stat")
                statistics = dict(zip(words[::2], words[1::2], strict=False))
                yield int(limit[0]), max(0, int(used[0]) - int(statistics.get(cached_name, 0))), folder


def control_groups(root: Path, controller: str) -> Iterator[Path]:
    """The folders of this process's control groups with a controller, each followed by those that enclose it.

    Both versions are looked through, since a machine may use version 1 for some controllers and 2 for others. See
    cgroups(7) for /proc/self/cgroup, and proc(5) for mountinfo.
    """
    own: dict[str, str] = {}
    for line in _lines(root / "proc/self/cgroup"):
        _, controllers, path = line.split(":", 2)
        own |= dict.fromkeys(controllers.split(","), path)  # version 2 names no controllers
    for line in _lines(root / "proc/self/mountinfo"):
        before, _, after = line.partition(" - ")
        mounted, mount_point = before.split(" ")[3:5]
        kind, _, options = after.split(" ", 2)
        name = controller if kind == "cgroup" and controller in options.split(",") else ""
        if name not in own or not (name or kind == "cgroup2"):
            continue
        top = root / mount_point.lstrip("/")
        path = own[name]
        if mounted != "/":  # a container sees the control group of the container as the top
            path = path.removeprefix(mounted)
        folder = top / path.strip("/")
        yield from (place for place in (folder, *folder.parents) if place.is_relative_to(top))


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []


def _words(path: Path) -> list[str]:
    return " ".join(_lines(path)).split()
