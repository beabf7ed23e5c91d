"""Reads the state of NVIDIA devices through NVML.

Devices are named by UUID, since NVML ignores CUDA_VISIBLE_DEVICES. "Busy" is the share of a sample period in which any
kernel ran; it does not measure efficiency. Energy comes from the device's own counter, because A100 and H100 sample
their power only a quarter of the time (Yang et al. 2023, arXiv:2312.02741).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pynvml

GIB = 2**30
DEVICE_ORDER = "CUDA_DEVICE_ORDER"
NVML_ORDER = "PCI_BUS_ID"
"""Value of the variable `DEVICE_ORDER` with which CUDA numbers devices as NVML, nvidia-smi and SLURM do."""


class NvmlUnavailableError(RuntimeError):
    """Raised when NVML cannot be initialised on this machine. The message says why."""


@dataclass(frozen=True)
class Selection:
    """The result of `Nvml.select`: the devices that were found, and those that were not."""

    uuids: tuple[str, ...]
    """The UUIDs of the devices that were found, without repetitions."""
    missing: tuple[str, ...]
    """For each device that was not found, a sentence that says why."""


class Nvml:
    """A connection to NVML, which the constructor initialises for this process.

    Methods take UUIDs that `uuids` or `select` returned.

    Raises:
        NvmlUnavailableError: NVML cannot be initialised, for instance because there is no NVIDIA driver.
    """

    def __init__(self) -> None:
        try:
            pynvml.nvmlInit()
            self.driver = str(pynvml.nvmlSystemGetDriverVersion())
            count = pynvml.nvmlDeviceGetCount()
            handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(count)]
            self._handles = {str(pynvml.nvmlDeviceGetUUID(handle)): handle for handle in handles}
        except pynvml.NVMLError as error:
            raise NvmlUnavailableError(f"no NVML: {error}") from error

    @property
    def uuids(self) -> list[str]:
        """The UUIDs of the machine's GPUs, without MIG instances, in NVML's order, which is that of the PCI bus."""
        return [uuid for uuid in self._handles if not uuid.startswith("MIG-")]

    def name(self, uuid: str) -> str:
        """Return the product name of a device."""
        return str(pynvml.nvmlDeviceGetName(self._handles[uuid]))

    def select(self, wanted: Sequence[str], environment: Mapping[str, str] = os.environ) -> Selection:
        """Find devices by the names that CUDA_VISIBLE_DEVICES, Ray or torch use.

        Args:
            wanted: The names. Each is an index in CUDA's order, the beginning of a GPU's UUID with or without `GPU-`,
                or the UUID of a MIG instance with `MIG-`. Repetitions are ignored.
            environment: The environment variables, among which CUDA_DEVICE_ORDER is looked up.

        Returns:
            The devices that were found and the reasons why others were not; a name without a device raises nothing.
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
        """Return the UUID of a device. Raises `LookupError` with a sentence that says why there is none."""
        gpus = self.uuids
        if name.isdecimal():
            if environment.get(DEVICE_ORDER) != NVML_ORDER and len(set(map(self.name, gpus))) > 1:
                raise LookupError(
                    f"NVML cannot tell which device CUDA calls {name}, because the devices differ and "
                    f"{DEVICE_ORDER} is not {NVML_ORDER}"
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

    def reports_utilization(self, uuid: str) -> bool:
        """Return whether NVML reports how busy a device is. For MIG instances it does not."""
        try:
            _READERS["busy_percent"](self._handles[uuid])
        except pynvml.NVMLError:
            return False
        return True

    def read(self, uuid: str) -> dict[str, float]:
        """Take one reading of a device.

        Returns:
            The readings that the device supports; a MIG instance supports little more than its memory. The keys are:

            - busy_percent: NVML's utilization.gpu, from 0 to 100.
            - memory_gib: memory in use, in GiB.
            - power_w: power draw in watts.
            - energy_j: a counter of joules that starts at 0 when the driver is loaded.
            - sm_clock_mhz: clock of the multiprocessors in MHz.
            - temperature_c: temperature in degrees Celsius.
            - throttle_reasons: NVML's bit mask of the reasons for a reduced clock.
            - processes: number of processes that compute on the device.

        Raises:
            pynvml.NVMLError: A reading failed for another reason than missing support, such as a lost device.
        """
        handle = self._handles[uuid]
        readings = {}
        for column, read in _READERS.items():
            try:
                readings[column] = float(read(handle))
            except _UNSUPPORTED:
                continue
        return readings


_UNSUPPORTED = (
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
