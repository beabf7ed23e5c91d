"""Checks NVML, from which the telemetry of a run comes, against nvidia-smi, the vendor's own tool."""

from __future__ import annotations

import shutil
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch

from bench.machine.nvml import Nvml, NvmlUnavailableError
from bench.suites.gpu.probe import MissingRequirementError, ProbeContext, Reporter, Value
from bench.suites.harness.errors import MeasurementError

COLUMNS = ("busy_percent", "memory_gib", "power_w", "sm_clock_mhz", "temperature_c")
"""The names that `Nvml.read` uses for the fields of `QUERY`, in the order of the query."""
QUERY = "uuid,utilization.gpu,memory.used,power.draw,clocks.sm,temperature.gpu"
TOLERANCES = {  # the largest difference allowed: absolute, or as a share of the reading
    "busy_percent": (20.0, 0.2),  # NVML and nvidia-smi average over different windows
    "memory_gib": (1.5, 0.0),  # the older of NVML's two counts includes what the driver reserves
    "power_w": (30.0, 0.2),  # the two are averaged differently
    "sm_clock_mhz": (150.0, 0.1),
    "temperature_c": (3.0, 0.0),
}
LOAD_S = 3.0


def parse(text: str) -> dict[str, dict[str, float]]:
    """Parse the output of `nvidia-smi --query-gpu=QUERY --format=csv,noheader,nounits`.

    Args:
        text: A line for each device, for example `GPU-6f3c..., 37, 1024, 87.17, 1980, 38`. In place of a reading that
            the device does not have, nvidia-smi prints `[N/A]`, `[Not Supported]` or `[Unknown Error]`.

    Returns:
        For each device, by UUID, its readings by the names in `COLUMNS`: percent, GiB, W, MHz and degrees Celsius.
        Readings that a device does not have are left out.

    Raises:
        MeasurementError: A line has another format.
    """
    found: dict[str, dict[str, float]] = {}
    for line in filter(str.strip, text.splitlines()):
        uuid, *values = (field.strip() for field in line.split(","))
        if len(values) != len(COLUMNS) or not uuid.startswith("GPU-"):
            raise MeasurementError(f"nvidia-smi: {line!r} is not a line of {QUERY}")
        readings = {name: float(value) for name, value in zip(COLUMNS, values, strict=True) if value[:1].isdigit()}
        if "memory_gib" in readings:
            readings["memory_gib"] /= 1024  # from MiB
        found[uuid] = readings
    return found


def nvidia_smi(context: ProbeContext, reporter: Reporter) -> None:
    """Compare the UUIDs and readings by NVML with those by nvidia-smi while the GPU is under a steady load.

    The two are read one after the other; the steady load makes their readings comparable.

    Raises:
        MissingRequirementError: nvidia-smi or NVML is missing.
        MeasurementError: The output of nvidia-smi has an unknown format.
    """
    tool = shutil.which("nvidia-smi")
    if tool is None:
        raise MissingRequirementError("there is no nvidia-smi")
    try:
        nvml = Nvml()
    except NvmlUnavailableError as absent:
        raise MissingRequirementError(str(absent)) from None
    selected = nvml.select([str(torch.cuda.get_device_properties(context.device).uuid)])
    reporter.check_true("NVML knows torch's device by its UUID", len(selected.uuids) == 1)
    if not selected.uuids:
        reporter.note("; ".join(selected.missing))
        return
    (uuid,) = selected.uuids
    command = [tool, f"--query-gpu={QUERY}", "--format=csv,noheader,nounits"]
    with _load(context.device):
        time.sleep(LOAD_S)
        reported = parse(
            subprocess.run(command, capture_output=True, text=True, check=True, timeout=30, encoding="utf-8").stdout
        )
        read = nvml.read(uuid)
    reporter.check_true("nvidia-smi knows NVML's devices by the same UUIDs", sorted(reported) == sorted(nvml.uuids))
    compare(read, reported.get(uuid, {}), reporter)


def compare(read: Mapping[str, float], theirs: Mapping[str, float], reporter: Reporter) -> None:
    """Report the readings of one device by NVML and by nvidia-smi, and check that they agree.

    Readings that both have may differ by an absolute tolerance or by a share of nvidia-smi's reading, whichever is
    larger (`TOLERANCES`). Readings that either of them lacks are named in a note.

    Args:
        read: The readings by NVML, as `Nvml.read` returns them. Those that are not in `COLUMNS` are ignored.
        theirs: The readings by nvidia-smi, as `parse` returns them for the device.
        reporter: Receives the table, a check for each reading, and the note.
    """
    names = [name for name in COLUMNS if name in theirs and name in read]
    rows: dict[str, dict[str, Value]] = {name: {"NVML": read[name], "nvidia-smi": theirs[name]} for name in names}
    reporter.table("under load", rows)
    for name in names:
        absolute, share = TOLERANCES[name]
        reporter.check(
            f"difference, {name}", abs(read[name] - theirs[name]), at_most=max(absolute, share * abs(theirs[name]))
        )
    if left_out := [name for name in COLUMNS if name not in names]:
        reporter.note(f"not reported by both: {', '.join(left_out)}")


@contextmanager
def _load(device: torch.device) -> Iterator[None]:
    """Keep the device busy with matrix products, from a thread, while the block runs."""
    is_over = threading.Event()

    def multiply() -> None:
        matrix = torch.randn(4096, 4096, device=device)
        while not is_over.is_set():
            for _ in range(20):
                matrix @ matrix
            torch.cuda.synchronize(device)

    thread = threading.Thread(target=multiply, daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()
