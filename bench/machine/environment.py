"""What a run ran on: commit, packages, machine, devices. Read once a process, in well under a second."""

from __future__ import annotations

import functools
import json
import os
import platform
import socket
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

from bench.machine import nvml
from bench.machine.cpu import this_cpu
from reproduce.native import LIBRARIES, ImplementationError, Library

SOURCE = Path(__file__).resolve().parents[2]
BUNDLED = Path(__file__).with_name("commit.json")  # in a wheel that `slurm.bundle` made: what git would say
CODE = ("reproduce", "bench", "slurm", "analysis", "pyproject.toml")  # what counts for the dirty flag
PACKAGES = (
    "deeper",
    "torch",
    "torchvision",
    "ffcv",
    "ray",
    "mlflow",
    "numba",
    "numpy",
    "pandas",
    "pyarrow",
    "opencv-python-headless",
    "nvidia-ml-py",
    "triton",
)


@functools.cache
def environment() -> dict[str, Any]:
    """Commit (absent outside a git checkout or a bundle), package versions, machine and devices, as plain JSON.

    `gpus` lists NVML's devices; where there are none, `gpu_absent` says why.
    """
    return {
        **source(),
        "packages": _packages(),
        "machine": _machine(),
        **_devices(),
        "threads": _threads(),
        **{library.role: _implementation(library) for library in LIBRARIES},
    }


def source() -> dict[str, Any]:
    """Commit and whether the tree has changes to it; nothing outside a git checkout or a bundle."""
    top, commit = _git("rev-parse", "--show-toplevel", "HEAD") or (None, None)
    if top is None or Path(top) != SOURCE:  # not a checkout of ours: installed, or inside someone else's
        found: dict[str, Any] = json.loads(BUNDLED.read_text(encoding="utf-8")) if BUNDLED.is_file() else {}
        return found
    changes = _git("status", "--porcelain", "--", *CODE)
    return {"commit": commit, "dirty": bool(changes)}


def _git(*arguments: str) -> list[str] | None:
    # The tree may belong to another user (a container, a shared checkout); reading its commit is harmless.
    command = ["git", "-c", "safe.directory=*", "-C", str(SOURCE), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, encoding="utf-8")
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return None
    return done.stdout.splitlines() if done.returncode == 0 else None


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
    }


def _devices() -> dict[str, Any]:
    try:
        library = nvml.Nvml()
    except nvml.NvmlAbsent as absent:
        return {"gpus": [], "gpu_absent": str(absent)}
    gpus = [{"name": library.name(uuid), "uuid": uuid} for uuid in library.uuids]
    return {"gpus": gpus, "gpu_driver": library.driver} if gpus else {"gpus": [], "gpu_absent": "NVML lists no device"}


def _implementation(library: Library) -> str:
    try:
        return str(library.implementation())
    except ImplementationError as error:
        return str(error)


def _threads() -> dict[str, Any]:
    names = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "NUMBA_NUM_THREADS")
    given = {name: os.environ[name] for name in names if name in os.environ}
    return {"usable_cpus": len(os.sched_getaffinity(0)), **given}
