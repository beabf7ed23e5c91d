"""NVML against nvidia-smi: the telemetry of a run has to say what the vendor's own tool says."""

from __future__ import annotations

import shutil
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch

from bench.machine.nvml import Nvml, NvmlUnavailableError
from bench.suites.gpu.part import Figure, LackingError, Report, Task

COLUMNS = ("busy_percent", "memory_gib", "power_w", "sm_clock_mhz", "temperature_c")
"""As `Nvml.read` names what the query gives, in its order."""
QUERY = "uuid,utilization.gpu,memory.used,power.draw,clocks.sm,temperature.gpu"
TOLERANCES = {  # of the difference, absolute and as a share
    "busy_percent": (20.0, 0.2),  # over different windows
    "memory_gib": (1.5, 0.0),  # the older of NVML's two counts holds what the driver keeps for itself
    "power_w": (30.0, 0.2),  # averaged differently
    "sm_clock_mhz": (150.0, 0.1),
    "temperature_c": (3.0, 0.0),
}
LOAD_S = 3.0


def parse(text: str) -> dict[str, dict[str, float]]:
    """Readings by UUID of `nvidia-smi --query-gpu=... --format=csv,noheader,nounits`; what a device lacks is left out.

    A line: GPU-6f3c..., 37, 1024, 87.17, 1980, 38; in place of a number: [N/A], [Not Supported], [Unknown Error].
    """
    found: dict[str, dict[str, float]] = {}
    for line in filter(str.strip, text.splitlines()):
        uuid, *values = (field.strip() for field in line.split(","))
        if len(values) != len(COLUMNS) or not uuid.startswith("GPU-"):
            raise ValueError(f"nvidia-smi: {line!r} is no line of {QUERY}")
        readings = {name: float(value) for name, value in zip(COLUMNS, values, strict=True) if value[:1].isdigit()}
        if "memory_gib" in readings:
            readings["memory_gib"] /= 1024  # of MiB
        found[uuid] = readings
    return found


def nvidia_smi(task: Task, report: Report) -> None:
    """Under a steady load, so that the readings of two moments are comparable."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        raise LackingError("there is no nvidia-smi")
    try:
        nvml = Nvml()
    except NvmlUnavailableError as absent:
        raise LackingError(str(absent)) from None
    selected = nvml.select([str(torch.cuda.get_device_properties(task.device).uuid)])
    report.holds("NVML knows torch's device by its UUID", len(selected.uuids) == 1)
    if not selected.uuids:
        report.note("; ".join(selected.missing))
        return
    (uuid,) = selected.uuids
    command = [tool, f"--query-gpu={QUERY}", "--format=csv,noheader,nounits"]
    with _load(task.device):
        time.sleep(LOAD_S)
        told = parse(
            subprocess.run(command, capture_output=True, text=True, check=True, timeout=30, encoding="utf-8").stdout
        )
        read = nvml.read(uuid)
    report.holds("nvidia-smi knows NVML's devices by the same UUIDs", sorted(told) == sorted(nvml.uuids))
    compare(read, told.get(uuid, {}), report)


def compare(read: Mapping[str, float], theirs: Mapping[str, float], report: Report) -> None:
    """NVML's readings of a device beside nvidia-smi's."""
    names = [name for name in COLUMNS if name in theirs and name in read]
    rows: dict[str, dict[str, Figure]] = {name: {"NVML": read[name], "nvidia-smi": theirs[name]} for name in names}
    report.table("under load", rows)
    for name in names:
        absolute, share = TOLERANCES[name]
        report.check(
            f"difference, {name}", abs(read[name] - theirs[name]), at_most=max(absolute, share * abs(theirs[name]))
        )
    if left_out := [name for name in COLUMNS if name not in names]:
        report.note(f"not told by both: {', '.join(left_out)}")


@contextmanager
def _load(device: torch.device) -> Iterator[None]:
    over = threading.Event()

    def work() -> None:
        matrix = torch.randn(4096, 4096, device=device)
        while not over.is_set():
            for _ in range(20):
                matrix @ matrix
            torch.cuda.synchronize(device)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
