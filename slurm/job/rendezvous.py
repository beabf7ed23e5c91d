"""Lets the nodes of a job find each other and learn that the job is over.

The head node listens on a port and writes its address into the rendezvous file in the submission's folder, before it
does anything that takes long. Each worker node reads the file, connects, and sends its name. The connection then stays
open, so that either side notices the loss of the other. Over it the head node sends the address of Ray once that is
known; a worker node sends its report once its Ray node has joined, or says why it cannot take part; and the head node
sends `JOB_OVER` when the job is over. Every message is one line of JSON. No file marks the end of the job, because a
network file system may hide a new file for a minute.
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
from typing import Any, Final, Literal

from reproduce.files.atomic import PRIVATE, write_atomically
from reproduce.files.disk import DiskFullError

POLL_S = 0.5
REPORT_TIMEOUT_S = 300  # for all worker nodes to report; after that the job continues with those that have
CONNECT_TIMEOUT_S = 30
LOST_AFTER_S = 30  # of silence on the connection; the kernel's keepalive probes it
JOB_OVER: Final = "over"
LONGEST_LINE = 2**20  # characters; whatever connects to the port is not yet known to be a node of this job

Cause = Literal["mistake", "ray", "lost"]


class RendezvousError(RuntimeError):
    """Raised if the head node of the job cannot be reached or could not start."""


@dataclass(frozen=True)
class Rendezvous:
    """Content of the rendezvous file, with which a worker node connects to the head node."""

    host: str
    """IPv4 address at which the head node listens."""
    port: int
    """TCP port at which the head node listens."""
    token: str
    """Secret by which the head node recognises reports of this job's nodes."""


@dataclass(frozen=True)
class NodeReport:
    """What the head node knows of a worker node once that takes part, or does not."""

    host: str
    """Name of the worker node."""
    data: str
    """Root folder from which the node reads the data sets."""
    problem: str | None = None
    """The reason why the node cannot take part; None if its Ray node has joined."""
    cause: Cause | None = None
    """What the problem is: a mistake of the user, a Ray that does not come up, or a node that is lost."""


def rendezvous_file(folder: Path, job: str, restarts: int) -> Path:
    """Return the path of the rendezvous file, which differs for each start of a job.

    Args:
        folder: The submission's folder.
        job: Id of the job.
        restarts: Number of times that the job had been requeued when this start began.
    """
    return folder / f"rendezvous-{job}-{restarts}.json"


def cancel_rendezvous(file: Path) -> None:
    """Write a rendezvous file that says that the head node could not start, or has ended.

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
                raise RendezvousError("the head node could not start, or has ended")
            return Rendezvous(**content)
        time.sleep(POLL_S)
    raise RendezvousError(f"the head node did not write {file} within {timeout_s:.0f} s")


class RendezvousServer:
    """The head node's side of the rendezvous, which collects the reports and announces the end of the job.

    Background threads receive the reports. The owner must call `close`.
    """

    def __init__(self, address: str, file: Path) -> None:
        """Start listening, and then write the rendezvous file.

        Args:
            address: IPv4 address of this node to listen on; the system chooses the port.
            file: Path of the rendezvous file.
        """
        self.reports: list[NodeReport] = []
        """The reports received so far, in the order of their arrival. Connections without the job's token are ignored.
        For a node whose connection ended before it had reported, there is a report that says that it is lost."""
        self.connected: set[str] = set()
        """Names of the worker nodes that have connected."""
        self.has_news = threading.Event()
        """Event that is set whenever there is another report. Whoever has looked clears it."""
        self._file = file
        self._socket = socket.create_server((address, 0))
        self._lock = threading.Lock()
        self._connections: list[socket.socket] = []
        self._ray_address: str | None = None
        self._rendezvous = Rendezvous(address, self._socket.getsockname()[1], secrets.token_hex(16))
        threading.Thread(target=self._accept_connections, daemon=True).start()
        write_atomically(file, json.dumps(asdict(self._rendezvous)).encode(), mode=PRIVATE)

    def announce_ray(self, address: str) -> None:
        """Tell every worker node, also those that connect later, where Ray listens.

        Args:
            address: HOST:PORT of the Ray cluster of the job's nodes, or of the existing one that they join.
        """
        with self._lock:
            self._ray_address = address
            for connection in self._connections:
                _send(connection, {"ray": address})

    def close(self) -> None:
        """Tell every worker node that the job is over, also one that comes late, and stop listening."""
        with contextlib.suppress(OSError, DiskFullError):
            cancel_rendezvous(self._file)
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)  # wakes the thread that accepts connections
        self._socket.close()
        with self._lock:
            for connection in self._connections:
                _send(connection, JOB_OVER)
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)  # wakes the thread that reads from it
                connection.close()

    def _accept_connections(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:  # the socket has been closed
                return
            _probe(connection)
            threading.Thread(target=self._receive, args=[connection], daemon=True).start()

    def _receive(self, connection: socket.socket) -> None:
        """Read the name and the report of a worker node, and wait until its connection ends."""
        with contextlib.suppress(OSError), connection.makefile("rb") as lines:
            host = _parse_name(lines.readline(LONGEST_LINE), self._rendezvous.token)
            if host is None:
                connection.close()
                return
            with self._lock:
                self.connected.add(host)
                self._connections.append(connection)
                if self._ray_address is not None:
                    _send(connection, {"ray": self._ray_address})
            line = b""
            with contextlib.suppress(OSError):
                line = lines.readline(LONGEST_LINE)
            lost = f"{host}: its launcher ended before it was ready; its own messages are in this log"
            self.reports.append(_parse_report(host, line) or NodeReport(host, "", lost, "lost"))
            self.has_news.set()


class RendezvousClient:
    """A worker node's side of the rendezvous: a connection to the head node that ends when the job is over."""

    def __init__(self, rendezvous: Rendezvous, host: str) -> None:
        """Connect to the head node, send this node's name, and start a thread that receives the head node's messages.

        Args:
            rendezvous: Content of the rendezvous file.
            host: Name of this node.

        Raises:
            RendezvousError: The head node cannot be reached.
        """
        try:
            self._connection = socket.create_connection((rendezvous.host, rendezvous.port), timeout=CONNECT_TIMEOUT_S)
            self._connection.settimeout(None)
            _probe(self._connection)
        except OSError as error:
            raise RendezvousError(f"the head node at {rendezvous.host} cannot be reached: {error}") from error
        self.over = threading.Event()
        """Event that is set when the job is over or the head node is lost."""
        self.head_lost = False
        """Whether the connection ended without `JOB_OVER`. It is valid only after `over` is set."""
        self._ray_address: str | None = None
        self._ray_is_known = threading.Event()
        _send(self._connection, {"token": rendezvous.token, "host": host})
        threading.Thread(target=self._receive, daemon=True).start()

    def wait_for_ray(self) -> str | None:
        """Wait until the head node announces Ray, and return its HOST:PORT; None if the job is over before."""
        self._ray_is_known.wait()
        return self._ray_address

    def report(self, report: NodeReport) -> None:
        """Send the report of this node. If the head node is lost, nothing is sent, and `over` will be set."""
        _send(self._connection, asdict(report))

    def _receive(self) -> None:
        over = False
        with contextlib.suppress(OSError), self._connection.makefile("rb") as lines:
            for line in lines:
                match _parse(line):
                    case {"ray": str(address)}:
                        self._ray_address = address
                        self._ray_is_known.set()
                    case message if message == JOB_OVER:
                        over = True
        self.head_lost = not over
        self.over.set()
        self._ray_is_known.set()


def _probe(connection: socket.socket) -> None:
    """Let the kernel break a connection if the other host is silent for `LOST_AFTER_S`."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, LOST_AFTER_S // 2)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)


def _send(connection: socket.socket, message: object) -> None:
    """Send a message; nothing if the other side is gone, which whoever reads from the connection notices."""
    with contextlib.suppress(OSError):
        connection.sendall(json.dumps(message).encode() + b"\n")


def _parse(line: bytes) -> Any:
    """Parse a line that was received. Returns None if it is no JSON."""
    try:
        return json.loads(line)
    except ValueError:
        return None


def _parse_name(line: bytes, token: str) -> str | None:
    """Return the name of a worker node from its first line; None if that does not have the job's token."""
    match _parse(line):
        case {"token": str(shown), "host": str(host)} if secrets.compare_digest(shown.encode(), token.encode()):
            return host
    return None


def _parse_report(host: str, line: bytes) -> NodeReport | None:
    match _parse(line):
        case {"data": str(data), "problem": problem, "cause": cause}:
            return NodeReport(host, data, problem, cause)
    return None
