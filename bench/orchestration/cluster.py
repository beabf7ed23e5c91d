"""The Ray cluster that runs are placed on: started here or joined, and how many runs it holds at once."""

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

GROUP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
"""The signals that Ctrl-C and `timeout` send to every process of the group. Ray's processes would end at once, before
the runs have written their checkpoints, so they must not see them: the driver decides when they end."""


@contextlib.contextmanager
def cluster(address: str | None, log: Path) -> Iterator[None]:
    """Connect to the Ray cluster at `address`, or run one on this machine, until the end of the `with` block.

    Args:
        address: `auto` or HOST:PORT of a running cluster; None starts one on this machine.
        log: The file that receives what Ray writes to standard error meanwhile.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    local: dict[str, Any] = {"include_dashboard": False, "object_store_memory": 256 * 2**20}
    with _redirecting_native_stderr(log):
        with _blocking_group_signals():
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
def _redirecting_native_stderr(log: Path) -> Iterator[None]:
    """Append to a file what native code, such as Ray's, writes to standard error; Python's own output is unaffected."""
    log.parent.mkdir(parents=True, exist_ok=True)
    terminal, python_stderr = os.dup(2), sys.stderr
    with log.open("ab") as file, open(os.dup(2), "w", encoding="utf-8", buffering=1, errors="replace") as sys.stderr:
        os.dup2(file.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(terminal, 2)
            os.close(terminal)
            sys.stderr.flush()
            sys.stderr = python_stderr


@contextlib.contextmanager
def _blocking_group_signals() -> Iterator[None]:
    """Block `GROUP_SIGNALS` in all processes that are started within the block, and in this one until its end.

    A process inherits the signal mask of the thread that starts it, and passes it on to its own children.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, GROUP_SIGNALS)
    on_terminate = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, on_terminate)  # Ray installs a handler that ends this process at once
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def capacity(resources: ResourcesConfig) -> int:
    """How many runs with these resources the living nodes of the cluster hold at once.

    Raises:
        SpecError: Not even one run fits.
    """
    workers, offers = 0, []
    for node in ray.nodes():
        if not node["Alive"]:
            continue
        cpus, gpus = int(node["Resources"].get("CPU", 0)), int(node["Resources"].get("GPU", 0))
        offers.append(f"{node['NodeManagerHostname']}: {cpus} CPUs, {gpus} GPUs")
        workers += resources.workers_within(cpus, gpus)
    if workers < resources.workers:
        raise SpecError(
            f"resources.workers: {resources.workers} workers with {resources.cpus_per_worker} CPUs and "
            f"{resources.gpus_per_worker:g} GPUs each do not fit; {workers} would, on {'; '.join(offers)}"
        )
    return workers // resources.workers
