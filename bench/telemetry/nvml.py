"""Readings of NVIDIA devices through NVML, keyed by UUID: NVML does not know CUDA_VISIBLE_DEVICES.

"Busy" is the share of a sample period in which any kernel ran; it says nothing about efficiency. Energy comes from
the device's own counter, since power is sampled a quarter of the time on A100 and H100 (arXiv:2312.02741).
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

pynvml: Any = importlib.import_module("pynvml")  # its functions have no annotations

GIB = 2**30


class NvmlAbsent(RuntimeError):  # noqa: N818 - a state of the machine, told as a reason
    """There is no NVML here; the message says why."""


class Nvml:
    """The NVML library, initialised. Raises NvmlAbsent with the reason if it cannot be."""

    def __init__(self) -> None:
        try:
            pynvml.nvmlInit()
            self.driver = str(pynvml.nvmlSystemGetDriverVersion())
            count = pynvml.nvmlDeviceGetCount()
            handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(count)]
            self._handles = {str(pynvml.nvmlDeviceGetUUID(handle)): handle for handle in handles}
        except pynvml.NVMLError as error:
            raise NvmlAbsent(f"no NVML: {error}") from error

    @property
    def uuids(self) -> list[str]:
        """UUIDs of all devices of the machine, in NVML's (PCI) order."""
        return list(self._handles)

    def name(self, uuid: str) -> str:
        return str(pynvml.nvmlDeviceGetName(self._handles[uuid]))

    def select(self, wanted: Sequence[str | int]) -> list[str]:
        """UUIDs of the wanted devices: indices in PCI order, or (beginnings of) UUIDs with or without `GPU-`.

        A device that this machine does not have is left out: it belongs to a rank elsewhere.
        """
        chosen = []
        for device in wanted:
            if isinstance(device, int):
                chosen += self.uuids[device : device + 1]
            else:
                start = device if device.startswith("GPU-") else f"GPU-{device}"
                chosen += [uuid for uuid in self.uuids if uuid.startswith(start)][:1]
        return list(dict.fromkeys(chosen))

    def read(self, uuid: str) -> dict[str, float]:
        """Readings of one device; what it does not support is left out.

        busy_percent, memory_gib (used), power_w, energy_j (counter since the driver was loaded), sm_clock_mhz,
        temperature_c, throttle_reasons (NVML's bit mask).
        """
        handle = self._handles[uuid]
        readings = {}
        for column, read in _READERS.items():
            try:
                readings[column] = float(read(handle))
            except (pynvml.NVMLError_NotSupported, pynvml.NVMLError_FunctionNotFound, pynvml.NVMLError_NoPermission):
                continue
        return readings


def visible_devices(environment: Mapping[str, str] = os.environ) -> list[str | int]:
    """The devices of CUDA_VISIBLE_DEVICES for `Nvml.select`; none if it is not set.

    Indices mean NVML's order only with CUDA_DEVICE_ORDER=PCI_BUS_ID or equal devices; UUIDs are always right.
    """
    items = [item.strip() for item in environment.get("CUDA_VISIBLE_DEVICES", "").split(",")]
    return [int(item) if item.isdigit() else item for item in items if item and item != "-1"]


def _throttle_reasons(handle: Any) -> int:
    try:
        return int(pynvml.nvmlDeviceGetCurrentClocksEventReasons(handle))
    except pynvml.NVMLError_FunctionNotFound:  # drivers before 535 know it by its older name
        return int(pynvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle))


_READERS: Mapping[str, Callable[[Any], float]] = {
    "busy_percent": lambda handle: pynvml.nvmlDeviceGetUtilizationRates(handle).gpu,
    "memory_gib": lambda handle: pynvml.nvmlDeviceGetMemoryInfo(handle).used / GIB,
    "power_w": lambda handle: pynvml.nvmlDeviceGetPowerUsage(handle) / 1e3,
    "energy_j": lambda handle: pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1e3,
    "sm_clock_mhz": lambda handle: pynvml.nvmlDeviceGetClockInfo(handle, pynvml.NVML_CLOCK_SM),
    "temperature_c": lambda handle: pynvml.nvmlDeviceGetTemperature(handle, pynvml.NVML_TEMPERATURE_GPU),
    "throttle_reasons": _throttle_reasons,
}
