"""How the nodes of a job find each other and learn of its end.

The first node listens and writes where into a file beside the scripts; every other node connects and says in one
line of JSON who it is and what keeps it from taking part, if something does. The connection stays open: the first node
says when the job is over, and a connection that ends without a word tells that it is lost. No file has to be waited for
at the end, which a network file system may hide for a minute.
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
from typing import Any

from reproduce.atomic import write_atomically
from reproduce.errors import UserError

POLL_S = 0.5
OVER = b"over"
DEAD_AFTER_S = 30  # of silence on the connection, as the kernel's keepalive sees it


@dataclass(frozen=True)
class Meeting:
    """Where the first node listens, and the address of its Ray."""

    host: str
    port: int
    ray: str
    token: str
    """What a node shows to be one of this job's."""


@dataclass(frozen=True)
class Arrival:
    """A node that has come."""

    host: str
    data: str
    """Folder that its ranks would read data from."""
    problem: str | None = None
    """Why it does not take part."""


def meeting_file(folder: Path, job: str, restarts: int) -> Path:
    return folder / f"meeting-{job}-{restarts}.json"


class Host:
    """The first node's side."""

    def __init__(self, address: str, ray: str, file: Path) -> None:
        self.arrivals: list[Arrival] = []
        self._file = file
        self._server = socket.create_server((address, 0))
        self._connections: list[socket.socket] = []
        self._meeting = Meeting(address, self._server.getsockname()[1], ray, secrets.token_hex(16))
        threading.Thread(target=self._accept, daemon=True).start()
        write_atomically(file, json.dumps(asdict(self._meeting)).encode(), mode=0o600)

    def close(self) -> None:
        """Tell every node that the job is over."""
        self._file.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)  # wakes the thread that accepts
        self._server.close()
        for connection in self._connections:
            with contextlib.suppress(OSError):  # that node is gone
                connection.sendall(OVER)
            connection.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._server.accept()
            except OSError:
                return
            self._connections.append(connection)
            threading.Thread(target=self._hear, args=[connection], daemon=True).start()

    def _hear(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError), connection.makefile() as lines:
            said: dict[str, Any] = json.loads(lines.readline())
            if said.pop("token") == self._meeting.token:
                self.arrivals.append(Arrival(**said))


def call_off(file: Path) -> None:
    """Have the other nodes not wait: the first one could not begin."""
    write_atomically(file, b"null")


def await_meeting(file: Path, patience_s: float) -> Meeting:
    """Wait for the first node. Raises `TimeoutError`, `ValueError` where it has called the meeting off."""
    deadline = time.monotonic() + patience_s
    while time.monotonic() < deadline:
        os.listdir(file.parent)  # has NFS look again instead of remembering that there was no file
        with contextlib.suppress(FileNotFoundError):
            if (content := json.loads(file.read_bytes())) is None:
                raise UserError("the first node could not begin")
            return Meeting(**content)
        time.sleep(POLL_S)
    raise TimeoutError(f"the first node was not there after {patience_s:.0f} s: no {file}")


class Guest:
    """Another node's side: arrived while the object lives."""

    def __init__(self, meeting: Meeting, arrival: Arrival) -> None:
        self._connection = socket.create_connection((meeting.host, meeting.port), timeout=30)
        self._connection.settimeout(None)
        self._connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in (("TCP_KEEPIDLE", DEAD_AFTER_S // 2), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3)):
            self._connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
        self._connection.sendall(json.dumps({"token": meeting.token, **asdict(arrival)}).encode() + b"\n")
        self.over = threading.Event()
        """Set once the job is over or the first node lost."""
        self.lost = False
        threading.Thread(target=self._await_end, daemon=True).start()

    def _await_end(self) -> None:
        said = b""
        with contextlib.suppress(OSError):
            said = self._connection.recv(len(OVER))
        self.lost = not said
        self.over.set()
