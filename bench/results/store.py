"""Writes results of benchmarks to one folder for each kind of machine, and finds these folders.

The kind of a machine is the name of its GPUs or, if it has none, the vendor of its CPU and the best instruction set
that the CPU supports: `nvidia-h200`, `4x-nvidia-h100-80gb-hbm3`, `amd-avx512-bf16`. A CPU that environment variables
keep from its best instructions is a kind of its own: `intel-amx-bf16-held-to-avx2`. Results of one kind never replace
those of another. Committed results are in `results/bench/<kind>/`; the latest results of this machine are in the
user's cache.
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
from reproduce.files.atomic import replacing
from reproduce.native import cache

COMMITTED = ROOT / "results" / "bench"
"""The folder of the committed results, with a subfolder for each kind of machine."""
LEVEL_NAMES = {"x86-64-v3": "avx2", "x86-64-v4": "avx512"}
"""What oneDNN and torch call the levels of x86-64."""


def machine_kind(environment: Mapping[str, Any], *, gpu: bool | None = None) -> str:
    """Return the kind of a machine, which is also the name of its folder of results.

    Args:
        environment: The description of the machine that `bench.machine.environment.environment` returned on it.
        gpu: True names the machine after its GPUs ("gpu" if NVML lists none), False after its CPU. None names it after
            its GPUs if it has any, otherwise after its CPU.
    """
    names = [str(device["name"]) for device in environment["gpus"]]
    if gpu or (gpu is None and names):
        counts = {name: names.count(name) for name in sorted(names)} or {"gpu": 1}
        return "-and-".join(_slug(name if count == 1 else f"{count}x {name}") for name, count in counts.items())
    machine = environment["machine"]
    best = next(iter(machine["cpu_flags"]), "")
    held = {name: value.lower() for name, value in environment.get("held_to", {}).items()}
    limits = {LEVEL_NAMES.get(value, value) for value in held.values()}
    suffix = " held to " + " and ".join(sorted(limits)) if held else ""
    return _slug(f"{machine['cpu_vendor']} {best.removesuffix('f')}{suffix}")  # avx512f becomes avx512


def this_machine_kind() -> str:
    """Return the kind of this machine, named after its GPUs only if torch can use them. Imports torch."""
    import torch

    return machine_kind(environment(), gpu=torch.cuda.is_available())


def latest_results_folder() -> Path:
    """Return the folder in the user's cache with the latest result of each suite on this kind of machine.

    The folder is not created. The call imports torch.
    """
    return latest_results() / this_machine_kind()


def latest_results() -> Path:
    """Return the folder in the user's cache with the latest results, by kind of machine. It may not exist."""
    return cache() / "bench"


def committed_kinds() -> list[str]:
    """Return the kinds of machine that have committed results, in alphabetical order."""
    return sorted(path.name for path in COMMITTED.iterdir() if path.is_dir()) if COMMITTED.is_dir() else []


def committed_results(suite: str) -> list[dict[str, Any]]:
    """Read the committed results of a suite, one for each kind of machine, with the key `kind` added."""
    files = (COMMITTED / kind / f"{suite}.json" for kind in committed_kinds())
    return [
        {"kind": file.parent.name, **json.loads(file.read_text(encoding="utf-8"))} for file in files if file.is_file()
    ]


def with_provenance(suite: str, content: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of a result with a description of how it was measured.

    Args:
        suite: The name of the suite.
        content: The result. Its keys `suite`, `date` and `command`, if there are any, take precedence.

    Returns:
        The result with the keys `suite`, `date` (local, YYYY-MM-DD), `command` (the words of this process) and
        `environment` (from `bench.machine.environment.environment`).
    """
    return {
        "suite": suite,
        "date": time.strftime("%Y-%m-%d"),
        "command": shlex.join(["deeper", *sys.argv[1:]]),
        **content,
        "environment": environment(),
    }


def to_json(result: Mapping[str, Any]) -> str:
    """Return a result as indented JSON, without a line break at the end."""
    return json.dumps(result, indent=1)


def write_result(path: Path, result: Mapping[str, Any]) -> None:
    """Write a result to a file as JSON, replacing the file atomically and creating its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path, durable=False) as file:
        file.write(to_json(result).encode() + b"\n")


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
