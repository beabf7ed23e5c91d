"""What a node finds out about its GPUs: what SLURM grants, what NVML and torch see of it, and how fast they are."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pynvml
import torch

from bench.machine.nvml import Nvml, NvmlUnavailableError

SIDE = 8192  # of the matrices: large enough to keep any GPU busy
PRODUCTS = 20
MIG = "MIG-"
"""How the name of an instance of a divided GPU begins."""
ASK = "import torch; print(torch.cuda.get_device_name(0) if torch.cuda.device_count() else '')"


@dataclass(frozen=True)
class Occupied:
    """A GPU on which others compute."""

    uuid: str
    processes: int
    memory_gib: float


def inspect_gpus(granted: int, environment: Mapping[str, str] = os.environ) -> dict[str, Any]:
    """Find out what NVML and torch see of the GPUs that SLURM grants, before this process uses them.

    Args:
        granted: Number of GPUs that SLURM grants on this node.
        environment: Environment variables, among which CUDA_VISIBLE_DEVICES names the GPUs.

    Returns:
        What is found, ready for JSON: `granted_gpus`; `devices`, their names by NVML; `devices_absent`, a sentence on
        each that NVML does not show, so that telemetry lacks it; `occupied`, those on which others compute, as
        `Occupied`; `gpus`, the names by torch; `gpus_absent`, why torch sees fewer than are granted.
    """
    found: dict[str, Any] = {"granted_gpus": granted, "gpus": []}
    if not granted:
        return found
    names = [name for name in environment.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    found |= _by_nvml(names)
    found["gpus"] = _by_torch(names, environment)
    if len(found["gpus"]) < granted:
        found["gpus_absent"] = _why_torch_sees_fewer()
    return found


def _by_nvml(names: Sequence[str]) -> dict[str, Any]:
    try:
        nvml = Nvml()
        selection = nvml.select(names)
        readings = {uuid: nvml.read(uuid) for uuid in selection.uuids}
    except NvmlUnavailableError as error:
        return {"devices": [], "devices_absent": [str(error)], "occupied": []}
    except pynvml.NVMLError as error:  # a device that is lost
        return {"devices": [], "devices_absent": [f"NVML: {error}"], "occupied": []}
    occupied = [
        asdict(Occupied(uuid, int(read["processes"]), read["memory_gib"]))
        for uuid, read in readings.items()
        if read.get("processes")
    ]
    return {
        "devices": [nvml.name(uuid) for uuid in selection.uuids],
        "devices_absent": list(selection.missing),
        "occupied": occupied,
    }


def _by_torch(names: Sequence[str], environment: Mapping[str, str]) -> list[str]:
    """Return what torch calls the GPUs that it sees.

    CUDA shows a process one MIG instance, whatever the number that it may use (NVIDIA's user guide on MIG), so that a
    process of its own looks for each.
    """
    if not any(name.startswith(MIG) for name in names):
        return [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", ASK],
            env={**environment, "CUDA_VISIBLE_DEVICES": name},
            stdout=subprocess.PIPE,
            text=True,
            encoding="utf-8",
        )
        for name in names
    ]
    return [answer for process in processes if (answer := process.communicate()[0].strip())]


def _why_torch_sees_fewer() -> str:
    if torch.version.cuda is None:
        return "this build of torch has no CUDA"
    try:
        torch.cuda.init()
    except (RuntimeError, AssertionError) as error:
        return str(error).splitlines()[0]
    return "CUDA hides the others"


def tflop_rate(device: torch.device, side: int = SIDE) -> float:
    """Return at how many TFLOP/s a device multiplies matrices in bfloat16, as training on GPUs does by default."""
    matrix = torch.ones(side, side, dtype=torch.bfloat16, device=device)
    (matrix @ matrix).sum().item()  # chooses the kernel
    start = time.perf_counter()
    for _ in range(PRODUCTS):
        product = matrix @ matrix
    product.sum().item()  # waits for all of them
    return PRODUCTS * 2 * side**3 / (time.perf_counter() - start) / 1e12
