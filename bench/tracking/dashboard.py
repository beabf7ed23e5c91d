"""MLflow's server on the store of these records. Does not import MLflow."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bench.records.plan import experiments
from bench.tracking.background import publisher_command
from bench.tracking.cursors import ExperimentCursors
from bench.tracking.location import log_file, store_exists, tracking_uri
from bench.tracking.mlflow_setup import QUIET, require_mlflow
from bench.tracking.reader import pending
from reproduce.errors import UserError

SERVER_START_S = 120.0  # measured 14 to 69 s on a loaded machine


class DashboardError(UserError):
    """The dashboard cannot be started; the message says why, and what works."""


def run_dashboard(records: Path, *, host: str = "127.0.0.1", port: int = 5000, experiment: str | None = None) -> int:
    """Publish what is new, print the address of MLflow's pages, and serve them until Ctrl-C.

    If the tracking store is a server of its own, only its address is printed.

    Args:
        records: folder of the records.
        host: address of this machine on which to serve; 0.0.0.0 for all.
        port: TCP port on which to serve.
        experiment: experiment to which the printed address leads.

    Returns:
        0, the exit code.

    Raises:
        DashboardError: if the port is taken, there are no records, or the server does not start.
        MlflowMissingError: if MLflow is not installed.
    """
    uri = tracking_uri(records)
    records = records.resolve()
    if uri.startswith(("http://", "https://")):
        print(f"MLflow: {_link(uri, records, uri, experiment)}", flush=True)
        return 0
    try:
        with serving(records, uri=uri, host=host, port=port) as server:
            print(f"MLflow: {_link(server.address, records, uri, experiment)}  (Ctrl-C ends it)", flush=True)
            server.process.wait()
            raise DashboardError(f"the MLflow server ended by itself; its log: {log_file(records, 'dashboard')}")
    except KeyboardInterrupt:
        return 0


@dataclass(frozen=True)
class Server:
    """An MLflow server on a store in a file."""

    address: str
    process: subprocess.Popen[bytes]


@contextlib.contextmanager
def serving(records: Path, *, uri: str, host: str = "127.0.0.1", port: int = 5000) -> Iterator[Server]:
    """Publish what is new, and run an MLflow server on a store in a file while the block runs.

    Raises:
        DashboardError: if the port is taken, there are no records, or the server does not start.
        MlflowMissingError: if MLflow is not installed.
    """
    require_mlflow()
    _check_port(host, port)
    if not experiments(records):
        raise DashboardError(f"records: {records} holds no experiment; run one first: deeper run quickstart")
    environment = {**os.environ, **QUIET}
    if pending(records, uri) or not store_exists(uri):  # the publisher creates the store before the server opens it
        with open(log_file(records, "publisher"), "ab") as log:
            command = [*publisher_command(records, uri), "--once"]
            subprocess.run(command, stdout=log, stderr=log, env=environment, check=False)
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", uri]
    command += ["--artifacts-destination", (records / "mlartifacts").as_uri()]
    command += ["--host", host, "--port", str(port), "--workers", "1"]
    with open(log_file(records, "dashboard"), "ab") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=log, env=environment, start_new_session=True, cwd=records / "publisher"
        )
    address = f"http://{'127.0.0.1' if host == '0.0.0.0' else host}:{port}"
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        _await_health(process, address, log_file(records, "dashboard"))
        yield Server(address, process)
    finally:
        signal.signal(signal.SIGTERM, before)
        _terminate(process)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _link(address: str, records: Path, uri: str, experiment: str | None) -> str:
    known = ExperimentCursors(records, uri, experiment).experiment_id() if experiment else None
    # Without the workflow type MLflow opens a page of language-model traces and not the table of runs.
    return f"{address}/#/experiments/{known}/runs?workflowType=machine_learning" if known else address


def _check_port(host: str, port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
            return
        except OSError as error:
            reason = error.strerror
    with socket.socket() as probe:
        try:
            probe.bind((host, 0))
        except OSError:
            raise DashboardError(f"host: {host} is not an address of this machine; try 127.0.0.1 or 0.0.0.0") from None
        free = probe.getsockname()[1]
    raise DashboardError(f"port: {port} on {host}: {reason}; {free} is free")


def _await_health(process: subprocess.Popen[bytes], address: str, log: Path) -> None:
    deadline = time.monotonic() + SERVER_START_S
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError), urllib.request.urlopen(f"{address}/health", timeout=2):
            return
        time.sleep(0.3)
    raise DashboardError(f"the MLflow server did not start within {SERVER_START_S:.0f} s; its log: {log}")


def _terminate(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
