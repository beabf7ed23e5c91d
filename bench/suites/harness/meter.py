"""Measures what a piece of work costs: time, CPU time of this process on CPUs, and energy and utilization on GPUs.

Energy and utilization come from NVML and are missing where NVML does not report them.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import torch

from bench.machine.nvml import Nvml, NvmlUnavailableError
from bench.suites.harness.ceilings import synchronise

SPEED, CPU_SPEED = "images/s", "images per CPU-second"
JOULE, BUSY = "images per joule", "GPU busy, %"


class Meter:
    """Times work on a device, with the events of the device on GPUs and with the clock on CPUs."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._nvml: Nvml | None = None
        self._uuids: tuple[str, ...] = ()
        if device.type == "cuda":
            with suppress(NvmlUnavailableError):
                self._nvml = Nvml()
                self._uuids = self._nvml.select([str(torch.cuda.get_device_properties(device).uuid)]).uuids

    def seconds(
        self, work: Callable[[], object], times: int = 1, meanwhile: Callable[[], None] = lambda: None
    ) -> float:
        """Returns the seconds that the device takes to do `work` a number of times in a row.

        Args:
            work: Gives work to the device.
            times: How often.
            meanwhile: Called on GPUs once all work is queued and its kernels still run.
        """
        synchronise(self.device)
        if self.device.type == "cuda":
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            for _ in range(times):
                work()
            end.record()
            meanwhile()
            end.synchronize()
            return float(start.elapsed_time(end)) / 1e3
        started = time.perf_counter()
        for _ in range(times):
            work()
        return time.perf_counter() - started

    def measure(self, work: Callable[[], object], *, images: int, times: int) -> dict[str, float]:
        """Measures `work` on `images` images, done a number of times in a row.

        Returns:
            Images/s; on CPUs also images per CPU-second; on GPUs also images per joule and the share of time, in
            percent, that the GPU was busy, where NVML reports them.
        """
        during: dict[str, float] = {}
        before, cpu = self.readings(), time.process_time()
        seconds = self.seconds(work, times, meanwhile=lambda: during.update(self.readings()))
        cpu_seconds, after = time.process_time() - cpu, self.readings()
        total = times * images
        measured: dict[str, float] = {SPEED: total / seconds}
        if self.device.type == "cpu":
            measured[CPU_SPEED] = total / cpu_seconds
        if "energy_j" in before:
            measured[JOULE] = total / (after["energy_j"] - before["energy_j"])
        if "busy_percent" in during:
            measured[BUSY] = during["busy_percent"]
        return measured

    def readings(self) -> dict[str, Any]:
        """Returns NVML's readings of the device; none if NVML is missing or does not know the device."""
        return self._nvml.read(self._uuids[0]) if self._nvml is not None and self._uuids else {}
