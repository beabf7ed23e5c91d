"""Measures the cost of a piece of work: time, on CPUs the CPU time of this process, on GPUs energy and utilization.

Energy and utilization come from NVML. They are left out if NVML does not report them.
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
    """Measures work on one device: its time with CUDA events on GPUs or with the clock on CPUs, and other costs.

    Args:
        device: The device that does the work.
    """

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
        """Call `work` `times` times in a row, and return the seconds that the device takes for all calls together.

        Work that was queued on the device before is waited for and does not count.

        Args:
            work: Queues work on the device, or does it on CPUs.
            times: Number of calls.
            meanwhile: Called once on GPUs when all work is queued, usually while the device still works. It is not
                called on CPUs.
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
        """Call `work` `times` times in a row, and measure its speed and its other costs.

        Args:
            work: Queues work on the device, or does it on CPUs.
            images: Images that one call processes.
            times: Number of calls.

        Returns:
            A measurement with the key `SPEED`; on CPUs also `CPU_SPEED`; on GPUs also `JOULE` and `BUSY`, if NVML
            reports them. `BUSY` is a single reading, taken when all work has been queued.
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
        """Return the readings of the device by `Nvml.read`.

        The mapping is empty on CPUs, without NVML, and if NVML does not know the device.
        """
        return self._nvml.read(self._uuids[0]) if self._nvml is not None and self._uuids else {}
