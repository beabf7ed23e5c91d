"""Where records are mirrored to, how far the mirror is, and the dashboard on it. Does not import MLflow.

The tracking store is $MLFLOW_TRACKING_URI, or sqlite beside the records, on a local disk where those are on a
network. `bench.tracking.publisher` is a process of its own, since `import mlflow` and a first use of sqlite cost some
ten seconds.
"""

from __future__ import annotations

import contextlib
import getpass
import hashlib
import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

from bench.machine.filesystems import filesystem
from bench.records.evaluations import unpublished
from bench.records.record import experiments, read_plan, write_atomically
from bench.records.states import events_from, run_folder
from reproduce.errors import UserError

HURRY_S = 3.0  # that a command to which a signal was sent waits for its publisher
SERVER_START_S = 120.0  # measured 14 to 69 s on a loaded machine
QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # saves 250 MB
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}


class MlflowAbsent(UserError):  # noqa: N818 - reads as a state
    """MLflow is not installed here; the message says what goes without it."""


class DashboardError(UserError):
    """The dashboard cannot be started; the message says why and what would work."""


def tracking_uri(records: Path) -> str:
    """$MLFLOW_TRACKING_URI, or the sqlite store beside the records; on a local disk where those lie on a network.

    sqlite is not safe on network file systems, and the store can be made anew from the records at any time. The host's
    name is in the path since the path tells the cursors of several stores apart, and each host has its own.
    """
    given = os.environ.get("MLFLOW_TRACKING_URI")
    if given:
        return given
    records = records.resolve()
    if not filesystem(records).is_network:
        return f"sqlite:///{records}/mlflow.db"
    digest = hashlib.sha256(os.fsencode(records)).hexdigest()[:8]
    return f"sqlite:////var/tmp/deeper-{getpass.getuser()}/{socket.gethostname()}-{digest}/mlflow.db"


def require_mlflow() -> None:
    """Raises `MlflowAbsent` where MLflow is not installed, as on a cluster that was given a bundle without it."""
    if importlib.util.find_spec("mlflow") is None:
        raise MlflowAbsent(
            "MLflow is not installed here; with --no-publish runs are recorded without it, and a machine that has it "
            "publishes the records: python -m bench.tracking.publisher --records FOLDER --once"
        )


# --- how far the mirror is ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Cursor:
    """What of a run's events one tracking store holds."""

    run_id: str
    offset: int = 0
    """Bytes of events.jsonl that are mirrored."""
    status: str = "RUNNING"
    """MLflow's status of the run."""
    epoch: int = 0
    """Last epoch mirrored: the step of final metrics."""
    described: bool = False
    """Whether the config is there as params; a run that failed before it began has none."""


def mirror_folder(records: Path, uri: str, experiment: str) -> Path:
    """Where the cursors of an experiment's runs lie, for one tracking store."""
    return records / "publisher" / hashlib.sha256(uri.encode()).hexdigest()[:8] / experiment


def read_cursor(folder: Path, key: str) -> Cursor | None:
    try:
        return Cursor(**json.loads((folder / f"{key}.json").read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None


def write_cursor(folder: Path, key: str, cursor: Cursor) -> None:
    write_atomically(folder / f"{key}.json", json.dumps(asdict(cursor)).encode())


def experiment_id(records: Path, uri: str, experiment: str) -> str | None:
    """MLflow's id of an experiment, if it was ever mirrored to this store."""
    try:
        return (mirror_folder(records, uri, experiment) / "experiment_id").read_text(encoding="utf-8")
    except FileNotFoundError:
        return None


def pending(records: Path, uri: str, names: Sequence[str] = ()) -> int:
    """Number of runs and evaluations not all mirrored yet, of the named experiments or all; from files alone."""
    count = 0
    for name in names or experiments(records):
        folder = mirror_folder(records, uri, name)
        known = experiment_id(records, uri, name) is not None and _store_exists(uri)
        for entry in read_plan(records, name):
            cursor = read_cursor(folder, entry.key) if known else None
            count += any(True for _ in events_from(run_folder(records, entry.key), cursor.offset if cursor else 0))
        count += len(unpublished(records, name, folder))
    return count


def _store_exists(uri: str) -> bool:
    return not uri.startswith("sqlite:///") or Path(uri.removeprefix("sqlite:///")).is_file()


# --- the publisher's process -------------------------------------------------------------------------


@dataclass(frozen=True)
class Publisher:
    """A publisher that ends, after a last pass, when `stop_publisher` says so or its starter dies."""

    records: Path
    uri: str
    process: subprocess.Popen[bytes]


def start_publisher(records: Path, *, uri: str | None = None) -> Publisher:
    """Start mirroring all experiments of these records in the background; nothing of it reaches the terminal."""
    records = records.resolve()
    uri = uri or tracking_uri(records)
    command = [sys.executable, "-m", "bench.tracking.publisher", "--records", str(records), "--tracking-uri", uri]
    with _log(records, "publisher") as log:
        process = subprocess.Popen(
            [*command, "--until-stdin-closes"],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            start_new_session=True,  # Ctrl-C is for the driver; the publisher still makes its last pass
        )
    return Publisher(records, uri, process)


def stop_publisher(
    publisher: Publisher, *, timeout_s: float = 60.0, hurry: Callable[[], bool] = lambda: False
) -> str | None:
    """Let the publisher make its last pass; None if all is mirrored, else a sentence on what is not and how to.

    Once `hurry` says so it is given some seconds more, and then left to itself: it ends when its patience does.
    """
    assert publisher.process.stdin is not None
    publisher.process.stdin.close()
    deadline, hurried = time.monotonic() + timeout_s, False
    while publisher.process.poll() is None and time.monotonic() < deadline:
        if hurry() and not hurried:
            deadline, hurried = min(deadline, time.monotonic() + HURRY_S), True
        time.sleep(0.1)
    if publisher.process.poll() is None:
        if hurried:
            return f"MLflow at {publisher.uri} gets the rest in the background"
        publisher.process.kill()
        publisher.process.wait()
    missing = pending(publisher.records, publisher.uri)
    if not missing:
        return None
    return (
        f"{missing} run{'s are' if missing > 1 else ' is'} not wholly in MLflow at {publisher.uri} (is it away? see "
        f"{publisher.records / 'logs' / 'publisher.log'}); nothing is lost: run "
        f"`python -m bench.tracking.publisher --records {publisher.records} --once` later"
    )


def _log(records: Path, name: str) -> IO[bytes]:
    path = records / "logs" / f"{name}.log"
    path.parent.mkdir(parents=True, exist_ok=True)
    return open(path, "ab")


# --- dashboard ---------------------------------------------------------------------------------------


def dashboard(
    records: Path,
    *,
    host: str = "127.0.0.1",
    port: int = 5000,
    experiment: str | None = None,
    allowed_hosts: str | None = None,
) -> int:
    """Mirror what is not yet, serve MLflow until Ctrl-C and print its address; a remote server's is only printed.

    `allowed_hosts`: names that browsers elsewhere may use, as `mlflow server --allowed-hosts` takes them.
    Raises DashboardError if the port is taken, there are no records, or the server does not come up.
    """
    uri = tracking_uri(records)
    records = records.resolve()
    if uri.startswith(("http://", "https://")):
        print(f"MLflow: {_link(uri, records, uri, experiment)}", flush=True)
        return 0
    try:
        with serving(records, uri=uri, host=host, port=port, allowed_hosts=allowed_hosts) as server:
            print(f"MLflow: {_link(server.address, records, uri, experiment)}  (Ctrl-C ends it)", flush=True)
            server.process.wait()
            raise DashboardError(f"the MLflow server ended by itself; its log: {records / 'logs' / 'dashboard.log'}")
    except KeyboardInterrupt:
        return 0


@dataclass(frozen=True)
class Server:
    """An MLflow server on an embedded store."""

    address: str
    process: subprocess.Popen[bytes]


@contextlib.contextmanager
def serving(
    records: Path, *, uri: str, host: str = "127.0.0.1", port: int = 5000, allowed_hosts: str | None = None
) -> Iterator[Server]:
    """An MLflow server on an embedded store while the block runs. Raises DashboardError if it does not come up, and
    MlflowAbsent."""
    require_mlflow()
    _check_port(host, port)
    if not experiments(records):
        raise DashboardError(f"records: {records} holds no experiment; run one first: deeper run quickstart")
    environment = {**os.environ, **QUIET}
    if pending(records, uri) or not _store_exists(uri):  # also lets one process create the store
        command = [
            sys.executable,
            "-m",
            "bench.tracking.publisher",
            "--records",
            str(records),
            "--tracking-uri",
            uri,
            "--once",
        ]
        with _log(records, "publisher") as log:
            subprocess.run(command, stdout=log, stderr=log, env=environment, check=False)
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", uri]
    command += ["--artifacts-destination", (records / "mlartifacts").as_uri()]
    command += ["--host", host, "--port", str(port), "--workers", "1"]
    if allowed_hosts is not None:
        command += ["--allowed-hosts", allowed_hosts]
    with _log(records, "dashboard") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=log, env=environment, start_new_session=True, cwd=records / "publisher"
        )
    address = f"http://{'127.0.0.1' if host == '0.0.0.0' else host}:{port}"
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        _await_health(process, address, records / "logs" / "dashboard.log")
        yield Server(address, process)
    finally:
        signal.signal(signal.SIGTERM, before)
        _end(process)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _link(address: str, records: Path, uri: str, experiment: str | None) -> str:
    known = experiment_id(records, uri, experiment) if experiment else None
    # Without the workflow type MLflow opens a page on language-model traces, not the table of runs.
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
            raise DashboardError(f"host: {host} is no address of this machine; 127.0.0.1 and 0.0.0.0 are") from None
        free = probe.getsockname()[1]
    raise DashboardError(f"port: {port} on {host}: {reason}; {free} is free")


def _await_health(process: subprocess.Popen[bytes], address: str, log: Path) -> None:
    deadline = time.monotonic() + SERVER_START_S
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError), urllib.request.urlopen(f"{address}/health", timeout=2):
            return
        time.sleep(0.3)
    raise DashboardError(f"the MLflow server did not come up within {SERVER_START_S:.0f} s; its log: {log}")


def _end(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
