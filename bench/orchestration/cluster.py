"""Starts or joins the Ray cluster that trains the runs, and computes how many runs fit on it at once."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import signal
import sys
from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import ray
from ray._private import ray_constants

from reproduce.spec import ResourcesConfig, SpecError

GROUP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
"""The signals that Ctrl-C and `timeout` send to every process of the process group. Ray's processes are started with
these signals blocked. Otherwise they would end at once, before the runs have written their checkpoints; the driver
decides when they end."""


@contextlib.contextmanager
def cluster(address: str | None, log: Path) -> Iterator[None]:
    """Connect this process to a Ray cluster for the duration of the `with` block.

    A process can have only one connection at a time. A cluster that was started here ends with the block; one that was
    joined keeps running. While the block runs, file descriptor 2 of this process leads to `log`, and `sys.stderr` is
    replaced by a stream to the original standard error.

    Args:
        address: Address of a running cluster, as HOST:PORT or `auto`. None starts a cluster on this machine.
        log: The file to which Ray's native code appends its standard error. Its folder is created if necessary.
    """
    ray_constants.RAY_DISABLE_FAILURE_SIGNAL_HANDLER = True  # Ray's native handler of SIGTERM aborts the driver
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    local: dict[str, Any] = {"include_dashboard": False, "object_store_memory": 256 * 2**20}
    with _redirecting_native_stderr(log), _thread_with_blocked_signals() as thread:
        try:
            thread.submit(
                ray.init,
                address=address or "local",
                logging_level=logging.ERROR,
                log_to_driver=False,
                **({} if address else local),
            ).result()
            yield
        finally:
            ray.shutdown()


@contextlib.contextmanager
def _redirecting_native_stderr(log: Path) -> Iterator[None]:
    """Append the standard error of native code, such as Ray's, to a file. Python's `sys.stderr` is unaffected."""
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
def _thread_with_blocked_signals() -> Iterator[Executor]:
    """Provide an executor of one thread in which `GROUP_SIGNALS` are blocked. The thread lives until the block ends.

    A process inherits the signal mask of the thread that starts it, and passes it on to its own children. It also ends
    with that thread if it has asked Linux to be killed at its parent's death, as the processes of a local cluster have.
    Outside the main thread, Ray cannot install its handler of SIGTERM, which would end the driver at once.
    """
    block = functools.partial(signal.pthread_sigmask, signal.SIG_BLOCK, GROUP_SIGNALS)
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="ray-init", initializer=block) as thread:
        yield thread


def capacity(resources: ResourcesConfig) -> int:
    """Compute how many runs fit at once on the living nodes of the connected Ray cluster.

    Runs that are being trained do not reduce the result, because it is computed from all CPUs and GPUs of the nodes,
    free or in use. The workers of one run may lie on several nodes.

    Args:
        resources: The resources of one run.

    Returns:
        The number of runs, at least 1.

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
