"""Readings of NVIDIA devices through NVML, keyed by UUID: NVML does not know CUDA_VISIBLE_DEVICES.

"Busy" is the share of a sample period in which any kernel ran; it says nothing about efficiency. Energy comes from
the device's own counter, since power is sampled a quarter of the time on A100 and H100 (arXiv:2312.02741).
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

pynvml: Any = importlib.import_module("pynvml")  # its functions have no annotations

GIB = 2**30
DEVICE_ORDER = "CUDA_DEVICE_ORDER"
NVML_ORDER = "PCI_BUS_ID"
"""The order in which NVML counts, and nvidia-smi and SLURM do; CUDA does where `DEVICE_ORDER` says so."""


class NvmlAbsent(RuntimeError):  # noqa: N818 - a state of the machine, told as a reason
    """There is no NVML here; the message says why."""


@dataclass(frozen=True)
class Selection:
    """Wanted devices: those that NVML knows by their UUIDs, and a sentence on each that it does not."""

    uuids: tuple[str, ...]
    missing: tuple[str, ...]


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
        """UUIDs of all GPUs of the machine, in NVML's (PCI) order."""
        return [uuid for uuid in self._handles if not uuid.startswith("MIG-")]

    def name(self, uuid: str) -> str:
        return str(pynvml.nvmlDeviceGetName(self._handles[uuid]))

    def select(self, wanted: Sequence[str], environment: Mapping[str, str] = os.environ) -> Selection:
        """Find devices by the names that CUDA_VISIBLE_DEVICES, Ray and torch have for them.

        An index counts as CUDA counts; the (beginning of the) UUID of a GPU may lack its `GPU-`; a MIG instance has a
        UUID with `MIG-`.
        """
        found: dict[str, None] = {}
        missing = []
        for name in dict.fromkeys(wanted):
            try:
                found[self._find(name.strip(), environment)] = None
            except LookupError as error:
                missing.append(str(error.args[0]))
        return Selection(tuple(found), tuple(missing))

    def _find(self, name: str, environment: Mapping[str, str]) -> str:
        """The UUID of a device. Raises LookupError with a sentence."""
        gpus = self.uuids
        if name.isdecimal():
            if environment.get(DEVICE_ORDER) != NVML_ORDER and len(set(map(self.name, gpus))) > 1:
                raise LookupError(
                    f"which device CUDA calls {name} is not known to NVML, since devices differ and {DEVICE_ORDER} is "
                    f"not {NVML_ORDER}"
                )
            if int(name) < len(gpus):
                return gpus[int(name)]
        elif name.startswith("MIG-"):
            try:
                self._handles[name] = pynvml.nvmlDeviceGetHandleByUUID(name)
                return name
            except pynvml.NVMLError as error:
                raise LookupError(f"NVML does not know MIG instance {name}: {error}") from None
        else:
            start = name if name.startswith("GPU-") else f"GPU-{name}"
            matching = [uuid for uuid in gpus if uuid.startswith(start)]
            if len(matching) == 1:
                return matching[0]
        raise LookupError(f"NVML does not know device {name}; it has {', '.join(gpus) or 'none'}")

    def tells_use(self, uuid: str) -> bool:
        """Whether NVML says how busy a device is, which it does not of a MIG instance."""
        try:
            _READERS["busy_percent"](self._handles[uuid])
        except pynvml.NVMLError:
            return False
        return True

    def read(self, uuid: str) -> dict[str, float]:
        """Readings of one device; what it does not support is left out.

        busy_percent, memory_gib (used), power_w, energy_j (counter since the driver was loaded), sm_clock_mhz,
        temperature_c, throttle_reasons (NVML's bit mask), processes (that compute on it). Of a MIG instance NVML tells
        hardly more than the memory.
        """
        handle = self._handles[uuid]
        readings = {}
        for column, read in _READERS.items():
            try:
                readings[column] = float(read(handle))
            except _NOT_TOLD:
                continue
        return readings


_NOT_TOLD = (
    pynvml.NVMLError_NotSupported,
    pynvml.NVMLError_FunctionNotFound,
    pynvml.NVMLError_NoPermission,
    pynvml.NVMLError_InvalidArgument,  # some drivers' answer to a MIG instance
)


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
    "processes": lambda handle: len(pynvml.nvmlDeviceGetComputeRunningProcesses(handle)),
}
