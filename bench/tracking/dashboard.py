"""Serves MLflow's pages over the tracking store of a folder of records.

MLflow's server runs as a process of its own; this module does not import MLflow.
"""

from __future__ import annotations

import contextlib
import http.client
import ipaddress
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
import webbrowser
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.machine.children import ending_with_stdin
from bench.records.plan import experiments, read_plans
from bench.tracking.background import publisher_command, publisher_environment
from bench.tracking.cursors import ExperimentCursors
from bench.tracking.location import log_file, store_exists, tracking_uri
from bench.tracking.mlflow_setup import QUIET, authorization, is_server, require_mlflow
from bench.tracking.pages.app import app_options
from bench.tracking.pages.views import EXPERIMENTS_PAGE, runs_page, view_page
from bench.tracking.reader import pending
from reproduce import schema
from reproduce.errors import UserError, did_you_mean
from reproduce.text.redaction import redacted

SERVER_START_S = 120.0
"""Seconds that the server may take to start. On a loaded machine, 14 to 69 s were measured."""


class DashboardError(UserError):
    """Raised when the dashboard cannot start or its server ends by itself. The message names the cause."""


def run_dashboard(
    records: Path,
    *,
    host: str = "127.0.0.1",
    port: int = 5000,
    experiment: str | None = None,
    without_password: bool = False,
    browser: bool = False,
) -> int:
    """Publish what is new, open MLflow's pages at accuracy by arm, and serve them until Ctrl-C or SIGTERM.

    If the tracking store is an HTTP server already, the function only prints its address and returns. Otherwise, call
    it in the main thread, because `serving` installs a signal handler.

    Args:
        records: The folder of the records.
        host: The address of this machine to listen at; 0.0.0.0 for all its addresses.
        port: The TCP port to listen at.
        experiment: The name of the experiment whose first view the printed link opens. None means the one that was
            planned last; of a server, the list of experiments.
        without_password: Whether `host` may be an address at which others reach this machine.
        browser: Whether to open the link in a browser, if this session has a display.

    Returns:
        The exit code, which is always 0.

    Raises:
        DashboardError: The port is taken, `host` is no address of this machine or one that `without_password` has to
            allow, there are no records, or the server does not start or ends by itself.
        MlflowMissingError: MLflow is not installed.
        UserError: See `tracking_uri`.
    """
    uri = tracking_uri(records)
    records = records.resolve()
    if is_server(uri):
        _show(redacted(uri.rstrip("/") + _page_of_server(records, uri, experiment)), "", browser=browser)
        return 0
    if not without_password and not is_loopback(host):
        raise DashboardError(
            f"host: at {host}, everyone who reaches this machine could read, change and delete what MLflow holds, "
            "since its server asks for no password; leave --host out and reach it by ssh -L, or add --without-password"
        )
    try:
        with serving(records, uri=uri, host=host, port=port) as server:
            page = _page(records, uri, experiment or _planned_last(records))
            _show(server.address + page, "  (Ctrl-C ends it)", browser=browser)
            server.process.wait()
            raise DashboardError(f"the MLflow server ended by itself; its log: {log_file(records, 'dashboard')}")
    except KeyboardInterrupt:
        return 0


@dataclass(frozen=True)
class Server:
    """A running MLflow server over an SQLite store."""

    address: str
    """The URL of its pages, without a slash at the end."""
    process: subprocess.Popen[bytes]
    """The server, which leads a process group of its own."""


@contextlib.contextmanager
def serving(records: Path, *, uri: str, host: str = "127.0.0.1", port: int = 5000) -> Iterator[Server]:
    """Publish what is new, then run an MLflow server over an SQLite store while the block runs.

    Use it in the main thread: during the block, SIGTERM raises `KeyboardInterrupt` in this process. Leaving the block
    restores the previous handler and terminates the server.

    Args:
        records: The folder of the records, as an absolute path.
        uri: The URI of the SQLite store.
        host: The address of this machine to listen at; 0.0.0.0 for all its addresses.
        port: The TCP port to listen at.

    Yields:
        The server, once it answers.

    Raises:
        DashboardError: The port is taken, `host` is no address of this machine, there are no records, or the server
            does not start.
        MlflowMissingError: MLflow is not installed.
    """
    require_mlflow()
    _check_port(host, port)
    if not experiments(records):
        raise DashboardError(f"records: {records} holds no experiment; run one first: deeper run quickstart")
    environment = {**publisher_environment(uri), **QUIET}
    if pending(records, uri) or not store_exists(uri):  # the publisher creates the store before the server opens it
        with open(log_file(records, "publisher"), "ab") as log:
            command = [*publisher_command(records), "--once"]
            subprocess.run(command, stdout=log, stderr=log, env=environment, check=False)
    environment = {**os.environ, **QUIET, "MLFLOW_BACKEND_STORE_URI": uri}
    command = [sys.executable, "-m", "mlflow", "server", *app_options()]
    command += ["--artifacts-destination", (records / "mlartifacts").as_uri()]
    command += ["--host", host, "--port", str(port), "--workers", "1"]
    with open(log_file(records, "dashboard"), "ab") as log:
        process = subprocess.Popen(
            ending_with_stdin(command),  # else a dashboard that is killed would leave the server behind
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            env=environment,
            start_new_session=True,
            cwd=records / "publisher",
        )
    address = f"http://{'127.0.0.1' if host == '0.0.0.0' else host}:{port}"
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        await_health(process, address, log_file(records, "dashboard"))
        yield Server(address, process)
    finally:
        signal.signal(signal.SIGTERM, before)
        terminate(process)


def is_loopback(host: str) -> bool:
    """Return whether only processes on this machine reach a server that listens at `host`, a name or an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def ask_health(address: str, *, timeout_s: float, headers: Mapping[str, str] = {}) -> None:
    """Ask an MLflow server whether it is well.

    Args:
        address: The URL of its pages.
        timeout_s: The longest time to wait for a part of the answer, in seconds.
        headers: HTTP headers to send, such as those of `bench.tracking.mlflow_setup.authorization`.

    Raises:
        OSError: It does not answer that it is well.
    """
    request = urllib.request.Request(f"{address.rstrip('/')}/health", headers=dict(headers))
    try:
        with urllib.request.urlopen(request, timeout=timeout_s):
            pass
    except http.client.HTTPException as error:
        raise OSError(f"it does not speak HTTP: {type(error).__name__}: {error}") from error


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def has_display(environment: Mapping[str, str] = os.environ) -> bool:
    """Return whether a browser with windows can be opened here; elsewhere one of the terminal might take its place."""
    return sys.platform == "darwin" or any(environment.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY"))


def _show(link: str, hint: str, *, browser: bool) -> None:
    print(f"MLflow: {link}{hint}", flush=True)
    if browser and has_display():
        webbrowser.open(link)


def _planned_last(records: Path) -> str:
    return max(experiments(records), key=lambda name: read_plans(records, name)[0].since)


def _page(records: Path, uri: str, experiment: str) -> str:
    """Return the page of an experiment, or that of all of them if it was never published to the store."""
    cursors = ExperimentCursors(records, uri, experiment)
    known, plan = cursors.experiment_id(), cursors.plan()
    if known is None:
        return EXPERIMENTS_PAGE
    return view_page(known, plan) if plan and cursors.pages() else runs_page(known)


def _page_of_server(records: Path, uri: str, experiment: str | None) -> str:
    if experiment is None:
        return EXPERIMENTS_PAGE
    try:
        found = _ask(uri, f"get-by-name?{urllib.parse.urlencode({'experiment_name': experiment})}")["experiment"]
    except urllib.error.HTTPError as error:
        if error.code != 404:
            return _page(records, uri, experiment)
        known = sorted(other["name"] for other in _ask(uri, "search?max_results=1000").get("experiments", []))
        known = [name for name in known if name != "Default"]
        raise DashboardError(
            f"experiment: {experiment!r} is not in {redacted(uri)}, which holds {', '.join(known) or 'nothing'}"
            + did_you_mean(experiment, known)
        ) from error
    except OSError:  # it is away now; the link is right once it answers
        return _page(records, uri, experiment)
    presents = [tag["value"] for tag in found.get("tags", []) if tag["key"].startswith(schema.TAG_PLANNER)]
    if not presents:
        return runs_page(found["experiment_id"])
    own = ExperimentCursors(records, uri, experiment).plan()
    newest = max(map(json.loads, presents), key=lambda present: float(present["since"]))
    return view_page(found["experiment_id"], own or newest["plan"])


def _ask(uri: str, what: str) -> dict[str, Any]:
    address = f"{uri.rstrip('/')}/api/2.0/mlflow/experiments/{what}"
    with urllib.request.urlopen(urllib.request.Request(address, headers=authorization()), timeout=10) as answer:
        content: dict[str, Any] = json.load(answer)
    return content


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


def await_health(process: subprocess.Popen[bytes], address: str, log: Path) -> None:
    """Wait until an MLflow server that was started on this machine answers.

    Args:
        process: The process of the server.
        address: The URL of its pages.
        log: The server's log, which the error names.

    Raises:
        DashboardError: The server ended, or did not answer within `SERVER_START_S`.
    """
    deadline = time.monotonic() + SERVER_START_S
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError):
            ask_health(address, timeout_s=2)
            return
        time.sleep(0.3)
    raise DashboardError(f"the MLflow server did not start within {SERVER_START_S:.0f} s; its log: {log}")


def terminate(process: subprocess.Popen[bytes]) -> None:
    """End a server that leads its process group, with all its processes, and wait for its end."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
