"""How the nodes of a job find each other and learn that the job is over.

The head node listens on a port and writes its address into the rendezvous file in the submission's folder. Each worker
node reads the file, connects, and reports in one line of JSON who it is and what keeps it from taking part, if anything
does. The connection then stays open: the head node sends a word when the job is over, and a connection that ends
without it means that the head node is lost. No file says that the job is over, because a network file system may hide a
new file for a minute.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import socket
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from slurm.job.private_files import write_private_file

POLL_S = 0.5
REPORT_TIMEOUT_S = 300  # for all worker nodes to report; after that the job continues with those that have
CONNECT_TIMEOUT_S = 30
HEAD_LOST_AFTER_S = 30  # of silence on the connection; the kernel's keepalive probes it
JOB_OVER = b"over"
LONGEST_REPORT = 2**20  # characters; whatever connects to the port is not yet known to be a node of this job


class RendezvousError(RuntimeError):
    """The head node of the job cannot be reached, or has given up."""


@dataclass(frozen=True)
class Rendezvous:
    """Content of the rendezvous file."""

    host: str
    """Address at which the head node listens."""
    port: int
    ray_address: str
    """HOST:PORT of the Ray cluster that the nodes form or join."""
    token: str
    """Secret that proves that a connection comes from a node of this job."""


@dataclass(frozen=True)
class NodeReport:
    """What a worker node says about itself when it connects."""

    host: str
    data: str
    """Root folder from which this node would read its data."""
    problem: str | None = None
    """Why the node does not take part; None if it does."""


def rendezvous_file(folder: Path, job: str, restarts: int) -> Path:
    """Path of the rendezvous file of one start of a job, in the folder of its submission."""
    return folder / f"rendezvous-{job}-{restarts}.json"


def cancel_rendezvous(file: Path) -> None:
    """Tell the worker nodes that the head node could not start, so that they do not wait for it."""
    write_private_file(file, b"null")


def wait_for_rendezvous(file: Path, timeout_s: float) -> Rendezvous:
    """Wait until the head node has written the rendezvous file.

    Raises:
        RendezvousError: The file is not there in time, or the head node has cancelled the rendezvous.
    """
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        os.listdir(file.parent)  # makes an NFS client ask again instead of remembering that there was no file
        with contextlib.suppress(FileNotFoundError):
            content = json.loads(file.read_bytes())
            if content is None:
                raise RendezvousError("the head node could not start")
            return Rendezvous(**content)
        time.sleep(POLL_S)
    raise RendezvousError(f"the head node did not write {file} within {timeout_s:.0f} s")


class RendezvousServer:
    """The head node's side: collects the reports of the worker nodes and tells them when the job is over."""

    def __init__(self, address: str, ray_address: str, file: Path) -> None:
        """Listen on `address`, on a port that the system chooses, and write the rendezvous file."""
        self.reports: list[NodeReport] = []
        self._file = file
        self._socket = socket.create_server((address, 0))
        self._connections: list[socket.socket] = []
        self._rendezvous = Rendezvous(address, self._socket.getsockname()[1], ray_address, secrets.token_hex(16))
        threading.Thread(target=self._accept_connections, daemon=True).start()
        write_private_file(file, json.dumps(asdict(self._rendezvous)).encode())

    def close(self) -> None:
        """Tell every worker node that the job is over."""
        self._file.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)  # wakes the thread that accepts connections
        self._socket.close()
        for connection in self._connections:
            with contextlib.suppress(OSError):  # that node is gone
                connection.sendall(JOB_OVER)
            connection.close()

    def _accept_connections(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:  # the socket has been closed
                return
            self._connections.append(connection)
            threading.Thread(target=self._receive_report, args=[connection], daemon=True).start()

    def _receive_report(self, connection: socket.socket) -> None:
        line = b""
        with contextlib.suppress(OSError), connection.makefile("rb") as lines:
            line = lines.readline(LONGEST_REPORT)
        report = _parse_report(line, self._rendezvous.token)
        if report is not None:
            self.reports.append(report)


class RendezvousClient:
    """A worker node's side: the node counts as taking part while this object's connection is open."""

    def __init__(self, rendezvous: Rendezvous, report: NodeReport) -> None:
        """Connect to the head node and send the report. Raises `RendezvousError`."""
        try:
            self._connection = _connect(rendezvous)
            self._connection.sendall(json.dumps({"token": rendezvous.token, **asdict(report)}).encode() + b"\n")
        except OSError as error:
            raise RendezvousError(f"the head node at {rendezvous.host} cannot be reached: {error}") from error
        self.over = threading.Event()
        """Set when the job is over or the head node is lost."""
        self.head_lost = False
        """Whether the connection ended without a word, which is known once `over` is set."""
        threading.Thread(target=self._wait_for_end, daemon=True).start()

    def _wait_for_end(self) -> None:
        message = b""
        with contextlib.suppress(OSError):
            message = self._connection.recv(len(JOB_OVER))
        self.head_lost = not message
        self.over.set()


def _connect(rendezvous: Rendezvous) -> socket.socket:
    """A connection to the head node that ends by itself after `HEAD_LOST_AFTER_S` without an answer."""
    connection = socket.create_connection((rendezvous.host, rendezvous.port), timeout=CONNECT_TIMEOUT_S)
    connection.settimeout(None)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, HEAD_LOST_AFTER_S // 2)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)
    return connection


def _parse_report(line: bytes, token: str) -> NodeReport | None:
    """The report in a line that a connection sent; None if the line is no report with the job's token."""
    try:
        content = json.loads(line)
    except ValueError:
        return None
    match content:
        case {"token": str(shown), "host": str(host), "data": str(data), "problem": str() | None as problem}:
            if secrets.compare_digest(shown.encode(), token.encode()):
                return NodeReport(host, data, problem)
    return None
