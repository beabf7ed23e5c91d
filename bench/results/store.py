"""Reads and writes results of benchmarks, in one folder for each kind of machine.

The kind of a machine is the name of its GPUs or, without one, the vendor of its CPU and the best instruction set that
the CPU supports: `nvidia-h200`, `4x-nvidia-h100-80gb-hbm3`, `amd-avx512-bf16`. Results of one kind never replace those
of another. Committed results are in `results/bench/<kind>/`; the latest results of this machine are in the user's
cache.
"""

from __future__ import annotations

import json
import re
import shlex
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.machine.environment import environment
from bench.machine.revision import ROOT
from reproduce.atomic import replacing
from reproduce.native import cache

COMMITTED = ROOT / "results" / "bench"


def machine_kind(environment: Mapping[str, Any], *, gpu: bool | None = None) -> str:
    """Returns the kind of a machine, which is also the name of its folder.

    Args:
        environment: What `bench.machine.environment.environment` recorded on the machine.
        gpu: Whether to name the machine after its GPUs. None names it after its GPUs if it has any.
    """
    names = [str(device["name"]) for device in environment["gpus"]]
    if gpu or (gpu is None and names):
        counts = {name: names.count(name) for name in sorted(names)} or {"gpu": 1}
        return "-and-".join(_slug(name if count == 1 else f"{count}x {name}") for name, count in counts.items())
    machine = environment["machine"]
    best = next(iter(machine["cpu_flags"]), "")
    return _slug(f"{machine['cpu_vendor']} {best.removesuffix('f')}")  # the flag avx512f stands for AVX-512


def this_machine_kind() -> str:
    """Returns the kind of this machine, named after its GPUs only if torch can use them."""
    import torch

    return machine_kind(environment(), gpu=torch.cuda.is_available())


def latest_results_folder() -> Path:
    """Returns the folder in the user's cache that holds the latest result of each suite on this kind of machine."""
    return cache() / "bench" / this_machine_kind()


def committed_kinds() -> list[str]:
    """Returns the kinds of machine that have committed results."""
    return sorted(path.name for path in COMMITTED.iterdir() if path.is_dir()) if COMMITTED.is_dir() else []


def with_provenance(suite: str, content: Mapping[str, Any]) -> dict[str, Any]:
    """Adds to a result what a reader needs to judge it: date, command, versions, machine and commit."""
    return {
        "suite": suite,
        "date": time.strftime("%Y-%m-%d"),
        "command": shlex.join(["deeper", *sys.argv[1:]]),
        **content,
        "environment": environment(),
    }


def to_json(result: Mapping[str, Any]) -> str:
    """Returns a result as the text of its file, without the last line break."""
    return json.dumps(result, indent=1)


def write_result(path: Path, result: Mapping[str, Any]) -> None:
    """Replaces the file at `path` by a result, and creates its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path, durable=False) as file:
        file.write(to_json(result).encode() + b"\n")


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
