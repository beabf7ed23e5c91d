"""What a piece of work costs: time, the CPU time of this process on CPUs, energy and use where NVML tells of a GPU."""

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
    """Times work on a device: by the device's events on GPUs, by the clock on CPUs."""

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
        """Of so many times, one after the other, until the device has done them.

        meanwhile: called once a GPU has been given all of it, while its kernels still run.
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
        begun = time.perf_counter()
        for _ in range(times):
            work()
        return time.perf_counter() - begun

    def figures(self, work: Callable[[], object], *, images: int, times: int) -> dict[str, float]:
        """Of work on so many images, done so many times."""
        during: dict[str, float] = {}
        before, cpu = self.readings(), time.process_time()
        seconds = self.seconds(work, times, meanwhile=lambda: during.update(self.readings()))
        cpu_seconds, after = time.process_time() - cpu, self.readings()
        total = times * images
        found: dict[str, float] = {SPEED: total / seconds}
        if self.device.type == "cpu":
            found[CPU_SPEED] = total / cpu_seconds
        if "energy_j" in before:
            found[JOULE] = total / (after["energy_j"] - before["energy_j"])
        if "busy_percent" in during:
            found[BUSY] = during["busy_percent"]
        return found

    def readings(self) -> dict[str, Any]:
        """NVML's, of the device; none where it does not know it."""
        return self._nvml.read(self._uuids[0]) if self._nvml is not None and self._uuids else {}
