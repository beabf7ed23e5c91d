"""Starts or joins the Ray cluster that trains the runs, and computes how many runs fit on it at once."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import ray
from ray._private import ray_constants
from ray._private import worker as ray_worker
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from bench.machine.computation import machine_kind
from reproduce.errors import UserError
from reproduce.files.temporary_folders import temporary_folder
from reproduce.limits import usable_cpus
from reproduce.spec import ResourcesConfig, SpecError
from reproduce.text.redaction import redacted

GROUP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
"""The signals that Ctrl-C and `timeout` send to every process of the process group. Ray's processes are started with
these signals blocked. Otherwise they would end at once, before the runs have written their checkpoints; the driver
decides when they end."""

LONGEST_FOLDER = 107 - len("/session_2026-11-27_02-17-26_175251_1234567/sockets/plasma_store")
"""The most bytes of the path of Ray's folder: Linux allows 107 for the path of a socket, and Ray adds this to it."""
CONNECT_TIMEOUT_S = 10.0
"""Seconds for a connection to the control service of a cluster at a given address. Ray itself tries for two minutes and
then ends the process."""
CHECK_EVERY_S = 2.0
"""Seconds between two connections to the control service of a cluster that was joined."""
LOST_AFTER_S = 10.0
"""Seconds without an answer after which such a cluster is lost. Ray itself ends the process after a minute."""
KIND_TIMEOUT_S = 60.0
"""Seconds that nodes have to say of which kind they are, for which they import torch."""
ESSENTIAL = ("gcs_server", "raylet")
"""The processes without which a local cluster trains nothing."""
WITHOUT_USE = ("monitor", "log_monitor", "dashboard")
"""Processes that `ray.init` starts in any case and that no run needs: nothing is scaled, Ray prints no logs of workers,
and nobody asks for its dashboard. They take memory, and a second each at the end, since they hear no SIGTERM."""


class Cluster:
    """Watches the connected Ray cluster.

    Args:
        address: Address of the cluster that was joined; None if it was started here.
    """

    def __init__(self, address: str | None) -> None:
        self._joined = address is not None
        self._answered_at = self._checked_at = time.monotonic()

    def lost(self) -> str | None:
        """Say why the cluster can train no longer; None if it can. To be called every few seconds, from one thread.

        A local cluster is lost as soon as one of its processes has died, because nothing starts it again. A cluster
        that was joined is lost once its control service accepts no connections for `LOST_AFTER_S`.
        """
        node = ray_worker._global_node
        dead: list[str] = [] if node is None else [name for name, _ in node.dead_processes()]
        if died := [name for name in ESSENTIAL if name in dead]:
            return f"Ray's process {died[0]} died"
        now = time.monotonic()
        if not self._joined or now - self._checked_at < CHECK_EVERY_S:
            return None
        address = ray.get_runtime_context().gcs_address
        try:
            _connect(address, timeout_s=CHECK_EVERY_S)
            self._answered_at = time.monotonic()
        except OSError as error:
            if now - self._answered_at > LOST_AFTER_S:
                return f"Ray's control service at {address} does not answer ({error.strerror or error})"
        finally:
            self._checked_at = time.monotonic()
        return None


@contextlib.contextmanager
def cluster(address: str | None, log: Path) -> Iterator[Cluster]:
    """Connect this process to a Ray cluster for the duration of the `with` block.

    A process can have only one connection at a time. A cluster that was started here offers the CPUs that this process
    may use, keeps its files in a short private folder and ends with the block; one that was joined keeps running. While
    the block runs, file descriptor 2 of this process leads to `log`, and `sys.stderr` is replaced by a stream to the
    original standard error.

    Args:
        address: Address of a running cluster, as HOST:PORT or `auto`. None starts a cluster on this machine.
        log: The file to which Ray's native code appends its standard error. Its folder is created if necessary.

    Yields:
        An object that says whether the cluster is lost.

    Raises:
        UserError: There is no cluster at the address, or Ray does not start on this machine.
    """
    check_address(address)
    ray_constants.RAY_DISABLE_FAILURE_SIGNAL_HANDLER = True  # Ray's native handler of SIGTERM aborts the driver
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    with contextlib.ExitStack() as stack:
        local: dict[str, Any] = {}
        if address is None:
            folder = stack.enter_context(temporary_folder("deeper-ray-", longest=LONGEST_FOLDER))
            local = {"include_dashboard": False, "object_store_memory": 256 * 2**20, "num_cpus": usable_cpus()}
            local["_temp_dir"] = str(folder)
        stack.enter_context(_redirecting_native_stderr(log))
        thread = stack.enter_context(_thread_with_blocked_signals())
        try:
            start = thread.submit(
                ray.init, address=address or "local", logging_level=logging.ERROR, log_to_driver=False, **local
            )
            try:
                start.result()
            except Exception as error:  # whatever Ray cannot do here, it is no bug of this project
                with log.open("a", encoding="utf-8") as file:
                    file.write(redacted(traceback.format_exc()))
                raise UserError(_refusal(address, error, log)) from error
            _end_processes_without_use()
            yield Cluster(address)
        finally:
            ray.shutdown()


def _end_processes_without_use() -> None:
    """Kill what is `WITHOUT_USE` of the cluster that this process has started, if it has started one."""
    node = ray_worker._global_node
    started: dict[str, Any] = {} if node is None else node.all_processes
    processes = [found.process for name in WITHOUT_USE for found in started.get(name, ())]
    for process in processes:
        process.kill()
    for process in processes:
        process.wait()


def check_address(address: str | None) -> None:
    """Raise `UserError` if an address is HOST:PORT and nothing accepts connections there."""
    if address is None or address == "auto":
        return
    try:
        _connect(address, timeout_s=CONNECT_TIMEOUT_S)
    except (OSError, ValueError, OverflowError) as error:
        raise UserError(_refusal(address, error)) from None


def _connect(address: str, *, timeout_s: float) -> None:
    """Connect to HOST:PORT and disconnect. Raises `ValueError` for what is no address, otherwise `OSError`."""
    host, colon, port = address.rpartition(":")
    if not (host and colon and port.isdecimal()):
        raise ValueError("it is not HOST:PORT")
    socket.create_connection((host.strip("[]"), int(port)), timeout=timeout_s).close()


def _refusal(address: str | None, error: Exception, log: Path | None = None) -> str:
    reason = (getattr(error, "strerror", None) or str(error) or type(error).__name__).splitlines()[0].rstrip(".")
    place = f"; details are in {log}" if log else ""
    if address is None:
        return f"Ray does not start on this machine: {reason}; see `deeper doctor`{place}"
    return (
        f"--address: {address}: no Ray cluster can be joined there: {reason}; name HOST:PORT of one that runs, `auto` "
        f"for one on this machine, or leave the option out to start one{place}"
    )


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


class KindsOfNodes:
    """Finds the nodes of the connected Ray cluster that are of a kind of machine.

    Each node is asked once, by a task that needs no free resources and whose process ends with it.

    Args:
        gpu: Whether the runs compute on GPUs.
    """

    def __init__(self, gpu: bool) -> None:
        self._gpu = gpu
        self._kinds: dict[str, str] = {}
        self._lock = threading.Lock()

    def __call__(self, machine: str) -> list[str]:
        """Return Ray's ids of the living nodes whose `Computation.machine` is `machine`.

        The list is empty if all living nodes are of this kind, so that there is nothing to choose, or if none is known
        to be.
        """
        alive = [node["NodeID"] for node in ray.nodes() if node["Alive"]]
        if len(alive) < 2:
            return []
        with self._lock:
            self._ask([node for node in alive if node not in self._kinds])
            found = [node for node in alive if self._kinds.get(node) == machine]
        return found if len(found) < len(alive) else []

    def _ask(self, nodes: Sequence[str]) -> None:
        remote: Any = ray.remote(num_cpus=0, max_calls=1)
        task = remote(machine_kind)
        asked = {
            task.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote(self._gpu): node
            for node in nodes
        }
        answered, _ = ray.wait([*asked], num_returns=len(asked), timeout=KIND_TIMEOUT_S) if asked else ([], [])
        for reference in answered:
            with contextlib.suppress(RayError):  # a node that is lost, or that cannot import torch
                self._kinds[asked[reference]] = ray.get(reference)


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
            f"{resources.gpus_per_worker:g} GPUs each do not fit; "
            + (f"{workers} would, on {'; '.join(offers)}" if offers else "no node of the Ray cluster is alive")
        )
    return workers // resources.workers
