"""Checks bf16 arithmetic, GPUs, CPU cores and memory."""

from __future__ import annotations

import shutil

import psutil
import torch

from bench.console.checks import Check
from bench.machine import nvml
from bench.planning import core_usage
from reproduce.execution.precision import resolve_precision
from reproduce.limits import usable_cpus, usable_memory

GIB = 2**30

MEMORY_GIB = 8
"""Free memory, in GiB, below which the check warns."""

SHARED_MEMORY_GIB = 1
"""Free space in /dev/shm, in GiB, below which the check warns.

Ray's object store needs 256 MiB of it; the rest is for NCCL's buffers."""


def checks() -> list[Check]:
    """Check bf16 arithmetic, GPUs, CPU cores, memory and /dev/shm, and return one finding for each check."""
    return [_precision(), _gpus(), _cores(), _threads_and_ranks(), _memory(), _shared_memory()]


def check_free(name: str, free: float, wanted_gib: int, found: str, hint: str) -> Check:
    """Return a finding on free memory or disk space: `ok` if there is enough, otherwise `warn`.

    Args:
        name: The name of the check.
        free: The free space in bytes.
        wanted_gib: The free space, in GiB, at or above which the finding is `ok`.
        found: A phrase that states the free space.
        hint: Advice for the user if the space is insufficient.
    """
    if free >= wanted_gib * GIB:
        return Check(name, "ok", found)
    return Check(name, "warn", f"{found}; {wanted_gib} GiB are comfortable", hint)


def _precision() -> Check:
    """Report in which precision `auto` trains on this machine: on its GPU if it has one, otherwise on its CPU."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    name, auto = {"cuda": "GPU", "cpu": "CPU"}[device.type], resolve_precision("auto", device)
    if auto.dtype is torch.bfloat16:
        return Check("bf16", "ok", f"{name} has bf16 arithmetic ({auto.instructions}): precision auto trains in bf16")
    return Check(
        "bf16", "warn", f"{name} has no bf16 arithmetic that training uses: precision auto trains in float32, slower"
    )


def _gpus() -> Check:
    try:
        devices = nvml.Nvml()
    except nvml.NvmlUnavailableError as reason:
        return Check("GPUs", "warn", f"{reason}: no GPU telemetry, training on CPU")
    names = [devices.name(uuid) for uuid in devices.uuids]
    counts = {name: names.count(name) for name in dict.fromkeys(names)}
    found = ", ".join(f"{count} x {name}" for name, count in counts.items()) or "none"
    if not torch.cuda.is_available():
        needed = f"a driver for CUDA {torch.version.cuda}" if torch.version.cuda else "a CUDA build of torch"
        return Check(
            "GPUs", "fail", f"{found}, but torch cannot use them", f"install {needed}; see CUDA_VISIBLE_DEVICES"
        )
    return Check("GPUs", "ok", found)


def _cores() -> Check:
    allowed = usable_cpus()
    return Check("cores", "ok" if allowed > 1 else "warn", f"{allowed} of {psutil.cpu_count()} may be used")


def _threads_and_ranks() -> Check:
    """Report the best division of the CPUs into ranks and threads, if `deeper bench scaling` has measured it."""
    name, measured = "threads and ranks", core_usage.measured()
    if measured is None:
        return Check(
            name, "ok", "not measured: a run takes resources.cpus_per_worker", "measure it with `deeper bench scaling`"
        )
    return Check(name, "ok", str(measured))


def _memory() -> Check:
    memory = usable_memory()
    found = f"{memory.available / GIB:.1f} of {memory.total / GIB:.1f} GiB free"
    return check_free("memory", memory.available, MEMORY_GIB, found, "use fewer workers, or fewer runs at once")


def _shared_memory() -> Check:
    free = shutil.disk_usage("/dev/shm").free
    hint = "in a container, use --shm-size=4g; otherwise Ray's objects go to disk"
    return check_free("/dev/shm", free, SHARED_MEMORY_GIB, f"{free / GIB:.1f} GiB free", hint)
