"""Results of benchmarks, a folder for each kind of machine, so that figures of one never take the place of another's.

`results/bench/<kind>/` holds what is committed, the user's cache the latest. A kind is the GPUs of a machine, or
the vendor of its CPU and the best instruction set that it has: nvidia-h200, 4x-nvidia-h100-80gb-hbm3, amd-avx512-bf16.
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


def kind(environment: Mapping[str, Any], *, gpu: bool | None = None) -> str:
    """The kind of a machine, as a folder's name; `gpu` None: the GPUs where there are any.

    `environment` is that of a machine which records its CPU's vendor and flags.
    """
    names = [str(device["name"]) for device in environment["gpus"]]
    if gpu or (gpu is None and names):
        counts = {name: names.count(name) for name in sorted(names)} or {"gpu": 1}
        return "-and-".join(_slug(name if count == 1 else f"{count}x {name}") for name, count in counts.items())
    machine = environment["machine"]
    best = next(iter(machine["cpu_flags"]), "")
    return _slug(f"{machine['cpu_vendor']} {best.removesuffix('f')}")  # avx512f is known as AVX-512


def here() -> str:
    """The kind of this machine: its GPUs count where torch can use them, since otherwise CPUs are measured."""
    import torch

    return kind(environment(), gpu=torch.cuda.is_available())


def kept_results() -> Path:
    """Folder of the latest results on this kind of machine, a file a suite, in the user's cache."""
    return cache() / "bench" / here()


def committed_kinds() -> list[str]:
    return sorted(path.name for path in COMMITTED.iterdir() if path.is_dir()) if COMMITTED.is_dir() else []


def write(path: Path, suite: str, content: Mapping[str, Any]) -> None:
    """A result with what it takes to judge it: date, command, versions, machine, commit."""
    whole = {
        "suite": suite,
        "date": time.strftime("%Y-%m-%d"),
        "command": shlex.join(["deeper", *sys.argv[1:]]),
        **content,
        "environment": environment(),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path, durable=False) as file:
        file.write(json.dumps(whole, indent=1).encode() + b"\n")


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
