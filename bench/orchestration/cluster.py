"""The Ray cluster that runs are placed on: started here or joined, and how many runs it holds."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ray

from reproduce.spec import ResourcesConfig, SpecError

SHIELDED = (signal.SIGTERM, signal.SIGINT)
"""What Ctrl-C and `timeout` send to every process of the group. Ray would end at once, before its runs have written
checkpoints; it is the driver that decides."""


@contextlib.contextmanager
def cluster(address: str | None, log: Path) -> Iterator[None]:
    """Ray at `address`, or a cluster of this machine while the block runs. What it says meanwhile goes to `log`."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    local: dict[str, Any] = {"include_dashboard": False, "object_store_memory": 256 * 2**20}
    with _diverting(log):
        with _shielding():
            ray.init(
                address=address or "local",
                logging_level=logging.ERROR,
                log_to_driver=False,
                **({} if address else local),
            )
        try:
            yield
        finally:
            ray.shutdown()


@contextlib.contextmanager
def _diverting(log: Path) -> Iterator[None]:
    """Send what native code, Ray's, writes to standard error to a file; Python's own still goes where it went."""
    log.parent.mkdir(parents=True, exist_ok=True)
    terminal, of_python = os.dup(2), sys.stderr
    with log.open("ab") as file, open(os.dup(2), "w", encoding="utf-8", buffering=1, errors="replace") as sys.stderr:
        os.dup2(file.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(terminal, 2)
            os.close(terminal)
            sys.stderr.flush()
            sys.stderr = of_python


@contextlib.contextmanager
def _shielding() -> Iterator[None]:
    """Block the signals in all processes that are started within the block; this one gets them at the block's end.

    A process takes over what its parent's thread blocks, and hands it on to its own.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SHIELDED)
    terminated = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, terminated)  # Ray puts its own there, which ends this process at once
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def capacity(resources: ResourcesConfig) -> int:
    """Runs that the cluster holds at once. Raises `SpecError` where not even one fits."""
    slots, offered = 0, []
    for node in ray.nodes():
        if not node["Alive"]:
            continue
        cpus, gpus = int(node["Resources"].get("CPU", 0)), int(node["Resources"].get("GPU", 0))
        offered.append(f"{node['NodeManagerHostname']}: {cpus} CPUs, {gpus} GPUs")
        slots += resources.workers_within(cpus, gpus)
    if slots < resources.workers:
        raise SpecError(
            f"resources.workers: {resources.workers} workers with {resources.cpus_per_worker} CPUs and "
            f"{resources.gpus_per_worker:g} GPUs each do not fit; {slots} would, on {'; '.join(offered)}"
        )
    return slots // resources.workers
