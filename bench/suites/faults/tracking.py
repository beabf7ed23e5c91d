"""Faults of the tracking store: a server that is down, slow, hanging or failing, and a store that cannot be written."""

from __future__ import annotations

import contextlib
import http.client
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from bench.machine.children import ending_with_stdin
from bench.machine.proxies import except_this_machine
from bench.suites.faults.kind import Series, Trial
from bench.tracking.dashboard import await_health, terminate
from bench.tracking.mlflow_setup import URI

SLOW_S = 2.0
HANG_S = 3600.0
LOCKED_S = 30.0
LOOPBACK = "127.0.0.1"


class DisturbedServer:
    """A real MLflow server behind a proxy that can be down, slow, hanging or failing.

    Args:
        series: The series whose metrics the server receives. Its environment gets the address of the proxy.
    """

    def __init__(self, series: Series) -> None:
        self.mode = "pass"
        self._series = series
        self._folder = series.job.folder / "server"
        self._healed = threading.Event()
        self._proxy: ThreadingHTTPServer | None = None
        self._port = _free_port()
        self._proxy_port = _free_port()

    def __enter__(self) -> DisturbedServer:
        except_this_machine()
        self._folder.mkdir()
        store = self._folder / "mlflow.db"
        command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", f"sqlite:///{store}"]
        command += ["--artifacts-destination", str(self._folder / "artifacts"), "--workers", "1"]
        command += ["--host", LOOPBACK, "--port", str(self._port)]
        log_file = self._folder / "log.txt"
        with log_file.open("wb") as log:
            self._server = subprocess.Popen(
                ending_with_stdin(command),
                cwd=self._folder,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        await_health(self._server, f"http://{LOOPBACK}:{self._port}", log_file)
        self._open()
        self._series.store = store
        self._series.environment[URI] = f"http://{LOOPBACK}:{self._proxy_port}"
        return self

    def __exit__(self, *exception: object) -> None:
        self.heal()
        self._close()
        terminate(self._server)

    def disturb(self, mode: str) -> None:
        """Enter a mode: `down`, `slow`, `hang` or `fail`."""
        self._healed.clear()
        self.mode = mode
        if mode == "down":
            self._close()

    def heal(self) -> None:
        """Let all requests pass again, also those that hang."""
        was, self.mode = self.mode, "pass"
        self._healed.set()
        if was == "down":
            self._open()

    def forward(self, request: BaseHTTPRequestHandler) -> None:
        """Answer a request as the mode says."""
        body = request.rfile.read(int(request.headers.get("Content-Length", 0)))
        if self.mode == "down":  # a connection that was open before
            raise ConnectionResetError
        if self.mode == "hang":
            self._healed.wait(HANG_S)
        if self.mode == "slow":
            time.sleep(SLOW_S)
        if self.mode == "fail":
            request.send_error(500)
            return
        connection = http.client.HTTPConnection(LOOPBACK, self._port, timeout=60)
        connection.request(request.command, request.path, body, dict(request.headers))
        answer = connection.getresponse()
        content = answer.read()
        request.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in ("content-length", "transfer-encoding", "connection", "date", "server"):
                request.send_header(name, value)
        request.send_header("Content-Length", str(len(content)))
        request.end_headers()
        request.wfile.write(content)

    def _open(self) -> None:
        self._proxy = _proxy(self, self._proxy_port)
        threading.Thread(target=self._proxy.serve_forever, args=(0.05,), daemon=True).start()

    def _close(self) -> None:
        if self._proxy is not None:
            self._proxy.shutdown()
            self._proxy.server_close()
            self._proxy = None


_servers: dict[str, DisturbedServer] = {}
"""The server of each series that has one, by the name of its job."""


@contextlib.contextmanager
def server(series: Series) -> Iterator[None]:
    """Publish the metrics of the series to a `DisturbedServer`."""
    with DisturbedServer(series) as disturbed:
        _servers[series.job.name] = disturbed
        try:
            yield
        finally:
            del _servers[series.job.name]


def disturb_server(trial: Trial, mode: str) -> None:
    """Make the server of the series `down`, `slow`, `hang` or `fail`."""
    _servers[trial.job.name].disturb(mode)


def heal_server(trial: Trial) -> None:
    """Make the server of the series answer again.

    Raises:
        AssertionError: The tracking store lacks nothing although the server did not answer.
    """
    disturbed = _servers[trial.job.name]
    if disturbed.mode != "slow":
        _check_lack(trial)
    disturbed.heal()


def _check_lack(trial: Trial) -> None:
    """Check that the fault has kept something from the tracking store, so that a trial of nothing is none."""
    if trial.series.unpublished() == 0:
        raise AssertionError("the tracking store lacked nothing, so that there was no fault")


def lock_store(trial: Trial) -> None:
    """Hold an exclusive lock on the SQLite store for `LOCKED_S`, as a backup or another reader may."""
    path = _existing_store(trial)
    held = threading.Event()
    threading.Thread(target=_hold_lock, args=(str(path), held), daemon=True).start()
    held.wait(60)


def await_lock(trial: Trial) -> None:
    """Wait until `lock_store` has released its lock."""
    with contextlib.closing(sqlite3.connect(trial.series.tracking_store, timeout=2 * LOCKED_S)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        connection.rollback()


@contextlib.contextmanager
def writable_again(series: Series) -> Iterator[None]:
    """Undo `make_store_read_only` at the end of the series."""
    try:
        yield
    finally:
        _let_write(series.tracking_store)


def make_store_read_only(trial: Trial) -> None:
    """Let the kernel refuse every change of the SQLite store, also by processes that have it open."""
    store = _existing_store(trial)
    log = trial.wait_for(lambda: path if (path := _write_ahead_log(store)).exists() else None)
    subprocess.run(["chattr", "+i", str(store), str(log)], check=True)


def make_store_writable(trial: Trial) -> None:
    """Undo `make_store_read_only`.

    Raises:
        AssertionError: The store lacks nothing although it could not be written.
    """
    try:
        _check_lack(trial)
    finally:
        _let_write(trial.series.tracking_store)


def no_immutable_files() -> str | None:
    """Return why a file cannot be made immutable here, or None if it can."""
    with tempfile.NamedTemporaryFile() as file:
        try:
            for change in ("+i", "-i"):
                subprocess.run(["chattr", change, file.name], check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError):
            return "making a file immutable takes root, and a file system such as ext4 for temporary files"
    return None


def _let_write(store: Path) -> None:
    paths = [str(path) for path in (store, _write_ahead_log(store)) if path.exists()]
    if paths:
        subprocess.run(["chattr", "-i", *paths], check=True)


def _write_ahead_log(store: Path) -> Path:
    return store.with_name(f"{store.name}-wal")


def _existing_store(trial: Trial) -> Path:
    store = trial.series.tracking_store
    return trial.wait_for(lambda: store if store.exists() else None)


def _hold_lock(path: str, held: threading.Event) -> None:
    connection = sqlite3.connect(path, timeout=60, isolation_level=None)
    try:
        connection.execute("BEGIN EXCLUSIVE")
        held.set()
        time.sleep(LOCKED_S)
    finally:
        connection.close()


def _proxy(disturbed: DisturbedServer, port: int) -> ThreadingHTTPServer:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *arguments: Any) -> None:
            pass

        def handle_one_request(self) -> None:
            with contextlib.suppress(ConnectionError, http.client.HTTPException, TimeoutError):
                super().handle_one_request()
                return
            self.close_connection = True

        def do_GET(self) -> None:
            disturbed.forward(self)

        do_POST = do_PUT = do_PATCH = do_DELETE = do_GET  # noqa: N815 - the names of http.server

    ThreadingHTTPServer.allow_reuse_address = True
    return ThreadingHTTPServer((LOOPBACK, port), Handler)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])
