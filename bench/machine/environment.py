"""Describes the environment of a run: revision of the code, packages, machine and devices."""

from __future__ import annotations

import functools
import os
import platform
import socket
from importlib import metadata
from typing import TYPE_CHECKING, Any

import psutil

from bench.machine import nvml
from bench.machine.cpu import this_cpu
from bench.machine.revision import revision
from reproduce.limits import usable_cpus, usable_memory
from reproduce.native import LIBRARIES, ImplementationError, Library, levels

if TYPE_CHECKING:
    from reproduce.native.backend import Backend

PACKAGES = (
    "deeper",
    "torch",
    "torchvision",
    "ffcv",
    "ray",
    "mlflow",
    "numba",
    "numpy",
    "scipy",
    "pandas",
    "pyarrow",
    "pillow",
    "opencv-python",
    "opencv-python-headless",
    "opencv-contrib-python",
    "opencv-contrib-python-headless",
    "nvidia-ml-py",
    "triton",
)
"""Distributions whose versions are recorded if they are installed. OpenCV may come from any of four distributions."""

INSTRUCTION_LIMITS = ("ONEDNN_MAX_CPU_ISA", "ATEN_CPU_CAPABILITY", levels.VARIABLE)
"""Environment variables that keep oneDNN, torch and our C code from using the CPU's best instructions."""


@functools.cache
def environment() -> dict[str, Any]:
    """Describe code, packages, machine and devices as JSON-serialisable values.

    The first call may compile the project's C code. Later calls in this process return the same dictionary, which must
    not be modified.

    Returns:
        A mapping with these keys:

        - commit, dirty: see `bench.machine.revision.revision`; absent if the revision is unknown.
        - packages: the versions of the installed `PACKAGES`.
        - machine: host name, operating system, Python, CPU, numbers of cores, memory in GiB and, of it, the
          memory that this process may use.
        - gpus: name and UUID of each GPU that NVML lists.
        - gpu_driver: the version of the NVIDIA driver; absent without GPUs.
        - held_to: the variables that keep the CPU's best instructions from being used, and their values; absent if none
          is set.
        - gpu_absent: why there are no GPUs; absent if there are some.
        - threads: the number of CPUs that this process may use, and thread settings from the environment.
        - decoder, kernels: the implementation of each C library that this process uses, or why there is none.
        - gpu_kernels: the same of the kernels for GPUs; absent if torch can use no GPU.
    """
    return {
        **revision(),
        "packages": _packages(),
        **machine_and_devices(),
        **_held_to(),
        "threads": _threads(),
        **{library.role: _implementation(library) for library in LIBRARIES},
        **_gpu_kernels(),
    }


def machine_and_devices() -> dict[str, Any]:
    """Describe the machine and its GPUs alone, without torch: the keys machine, gpus and gpu_driver or gpu_absent."""
    return {"machine": _machine(), **_devices()}


def _packages() -> dict[str, str]:
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def _machine() -> dict[str, Any]:
    cpu = this_cpu()
    return {
        "hostname": socket.gethostname(),
        "system": platform.system(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "cpu": cpu.model,
        "cpu_vendor": cpu.vendor,
        "cpu_flags": list(cpu.flags),
        "cores_physical": psutil.cpu_count(logical=False),
        "cores": psutil.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 2),
        "memory_usable_gib": round(usable_memory().total / 2**30, 2),
    }


def _devices() -> dict[str, Any]:
    try:
        library = nvml.Nvml()
    except nvml.NvmlUnavailableError as error:
        return {"gpus": [], "gpu_absent": str(error)}
    gpus = [{"name": library.name(uuid), "uuid": uuid} for uuid in library.uuids]
    return {"gpus": gpus, "gpu_driver": library.driver} if gpus else {"gpus": [], "gpu_absent": "NVML lists no device"}


def _held_to() -> dict[str, dict[str, str]]:
    found = {name: os.environ[name] for name in INSTRUCTION_LIMITS if os.environ.get(name)}
    return {"held_to": found} if found else {}


def _gpu_kernels() -> dict[str, str]:
    import torch

    if not torch.cuda.is_available():
        return {}
    from reproduce.native.gpu.backend import TRITON

    return {"gpu_kernels": _implementation(TRITON)}


def _implementation(library: Library | Backend) -> str:
    try:
        return str(library.implementation())
    except ImplementationError as error:
        return str(error)


def _threads() -> dict[str, Any]:
    names = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "NUMBA_NUM_THREADS")
    given = {name: os.environ[name] for name in names if name in os.environ}
    return {"usable_cpus": usable_cpus(), **given}
