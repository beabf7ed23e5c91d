"""Lets the nodes of a job find each other and learn that the job is over.

The head node listens on a port and writes its address into the rendezvous file in the submission's folder. Each worker
node reads the file, connects, and sends one line of JSON with its name and, if it cannot take part, the reason. The
connection then stays open: the head node sends `JOB_OVER` when the job is over, and if the connection ends without it,
the head node is lost. No file marks the end of the job, because a network file system may hide a new file for a minute.
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

from reproduce.files.atomic import PRIVATE, write_atomically

POLL_S = 0.5
REPORT_TIMEOUT_S = 300  # for all worker nodes to report; after that the job continues with those that have
CONNECT_TIMEOUT_S = 30
HEAD_LOST_AFTER_S = 30  # of silence on the connection; the kernel's keepalive probes it
JOB_OVER = b"over"
LONGEST_REPORT = 2**20  # characters; whatever connects to the port is not yet known to be a node of this job


class RendezvousError(RuntimeError):
    """Raised if the head node of the job cannot be reached or could not start."""


@dataclass(frozen=True)
class Rendezvous:
    """Content of the rendezvous file, with which a worker node connects to the head node and to Ray."""

    host: str
    """IPv4 address at which the head node listens."""
    port: int
    """TCP port at which the head node listens."""
    ray_address: str
    """HOST:PORT of the Ray cluster of the job's nodes, or of the existing one that they join."""
    token: str
    """Secret by which the head node recognises reports of this job's nodes."""


@dataclass(frozen=True)
class NodeReport:
    """The message that a worker node sends to the head node when it connects."""

    host: str
    """Name of the worker node."""
    data: str
    """Root folder from which the node reads the data sets."""
    problem: str | None = None
    """The reason why the node cannot take part; None if it takes part."""


def rendezvous_file(folder: Path, job: str, restarts: int) -> Path:
    """Return the path of the rendezvous file, which differs for each start of a job.

    Args:
        folder: The submission's folder.
        job: Id of the job.
        restarts: Number of times that the job had been requeued when this start began.
    """
    return folder / f"rendezvous-{job}-{restarts}.json"


def cancel_rendezvous(file: Path) -> None:
    """Write a rendezvous file that says that the head node could not start.

    On the worker nodes, `wait_for_rendezvous` then raises instead of waiting any longer.

    Args:
        file: Path of the rendezvous file.
    """
    write_atomically(file, b"null", mode=PRIVATE)


def wait_for_rendezvous(file: Path, timeout_s: float) -> Rendezvous:
    """Wait until the head node has written the rendezvous file, and read it.

    Args:
        file: Path of the rendezvous file.
        timeout_s: Longest time to wait, in seconds.

    Raises:
        RendezvousError: The file does not exist in time, or the head node has cancelled the rendezvous.
        OSError: The folder of the file cannot be listed on this node.
    """
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        try:
            os.listdir(file.parent)  # makes an NFS client ask again instead of remembering that there was no file
        except FileNotFoundError:
            raise RendezvousError(
                f"{file.parent} is not visible on this node; use a folder that all nodes share"
            ) from None
        with contextlib.suppress(FileNotFoundError):
            content = json.loads(file.read_bytes())
            if content is None:
                raise RendezvousError("the head node could not start")
            return Rendezvous(**content)
        time.sleep(POLL_S)
    raise RendezvousError(f"the head node did not write {file} within {timeout_s:.0f} s")


class RendezvousServer:
    """The head node's side of the rendezvous, which collects the reports and announces the end of the job.

    Background threads receive the reports. The owner must call `close`.
    """

    def __init__(self, address: str, ray_address: str, file: Path) -> None:
        """Start listening, and then write the rendezvous file.

        Args:
            address: IPv4 address of this node to listen on; the system chooses the port.
            ray_address: HOST:PORT of the Ray cluster, for the worker nodes.
            file: Path of the rendezvous file.
        """
        self.reports: list[NodeReport] = []
        """The reports received so far, in the order of their arrival. Those without the job's token are ignored."""
        self._file = file
        self._socket = socket.create_server((address, 0))
        self._connections: list[socket.socket] = []
        self._rendezvous = Rendezvous(address, self._socket.getsockname()[1], ray_address, secrets.token_hex(16))
        threading.Thread(target=self._accept_connections, daemon=True).start()
        write_atomically(file, json.dumps(asdict(self._rendezvous)).encode(), mode=PRIVATE)

    def close(self) -> None:
        """Tell every connected worker node that the job is over, stop listening, and remove the rendezvous file."""
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
    """A worker node's side of the rendezvous: a connection to the head node that ends when the job is over."""

    def __init__(self, rendezvous: Rendezvous, report: NodeReport) -> None:
        """Connect to the head node, send the report, and start a thread that waits for the end of the job.

        Args:
            rendezvous: Content of the rendezvous file.
            report: The report of this node.

        Raises:
            RendezvousError: The head node cannot be reached.
        """
        try:
            self._connection = _connect(rendezvous)
            self._connection.sendall(json.dumps({"token": rendezvous.token, **asdict(report)}).encode() + b"\n")
        except OSError as error:
            raise RendezvousError(f"the head node at {rendezvous.host} cannot be reached: {error}") from error
        self.over = threading.Event()
        """Event that is set when the job is over or the head node is lost."""
        self.head_lost = False
        """Whether the connection ended without `JOB_OVER`. It is valid only after `over` is set."""
        threading.Thread(target=self._wait_for_end, daemon=True).start()

    def _wait_for_end(self) -> None:
        message = b""
        with contextlib.suppress(OSError):
            message = self._connection.recv(len(JOB_OVER))
        self.head_lost = not message
        self.over.set()


def _connect(rendezvous: Rendezvous) -> socket.socket:
    """Connect to the head node. The connection breaks if the head node's host is silent for `HEAD_LOST_AFTER_S`."""
    connection = socket.create_connection((rendezvous.host, rendezvous.port), timeout=CONNECT_TIMEOUT_S)
    connection.settimeout(None)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, HEAD_LOST_AFTER_S // 2)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)
    return connection


def _parse_report(line: bytes, token: str) -> NodeReport | None:
    """Parse a line received from a connection. Returns None if it is not a report with the job's token."""
    try:
        content = json.loads(line)
    except ValueError:
        return None
    match content:
        case {"token": str(shown), "host": str(host), "data": str(data), "problem": str() | None as problem}:
            if secrets.compare_digest(shown.encode(), token.encode()):
                return NodeReport(host, data, problem)
    return None
