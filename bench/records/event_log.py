"""Appends events to a run's file under a lock that only one writer can hold.

`events.jsonl` holds one JSON object per line, each with its own timestamp, attempt number and checksum
(`reproduce.text.sealing`); `reproduce.schema` lists the kinds. A crash may leave an incomplete last line: the next
writer ends it, and every reader skips it. The lock also shows a reader whether a run is alive. On several hosts it
needs a file system with cluster-wide `flock`, such as NFS, or Lustre mounted with `-o flock`.
"""

from __future__ import annotations

import errno
import json
import os
import time
from pathlib import Path
from typing import Any

from bench.records.states import EVENTS, LOCK, attempts_of, read_events
from reproduce.files.disk import naming_full_disk
from reproduce.files.locks import try_lock
from reproduce.text.sealing import sealed


class RunBusyError(RuntimeError):
    """Raised if another process holds the lock of a run that is to be written."""


class EventLog:
    """The only writer of one run's events. It holds the run's lock from its creation until `close`.

    Args:
        folder: The run's record folder, which is created if necessary.
        patience_s: Seconds to wait for another process to release the lock.

    Raises:
        RunBusyError: Another process still holds the lock after `patience_s` seconds.
    """

    def __init__(self, folder: Path, *, patience_s: float) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._lock: int | None = _claim(folder, patience_s)
        self._file: int | None = None

    def attempts(self) -> list[list[dict[str, Any]]]:
        """Read all events so far, grouped by attempt, in the order in which they were written."""
        return attempts_of(read_events(self._folder))

    def append(self, kind: str, attempt: int, **content: Any) -> None:
        """Append one event with the current time. It is durable when this method returns.

        Args:
            kind: The kind of event: `schema.START`, `schema.GRAPH`, `schema.EPOCH` or `schema.END`.
            attempt: The number of the attempt, from 1.
            **content: Further fields of the event, which JSON can represent. Their floats must be finite.

        Raises:
            DiskFullError: There is no room for the line.
            OSError: The line could not be written as a whole for another reason.
            ValueError: A float is not finite.
        """
        assert self._lock is not None, "the log is closed"
        path = self._folder / EVENTS
        event = {"t": round(time.time(), 3), "attempt": attempt, "kind": kind, **content}
        line = sealed(json.dumps(event, allow_nan=False).encode()) + b"\n"
        with naming_full_disk(path):
            if self._file is None:
                self._file = _open_for_append(path)
            size = os.fstat(self._file).st_size
            try:
                written = os.write(self._file, line)
                if written != len(line):  # there is room for a part of the line only
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                os.fsync(self._file)
            except OSError:
                os.ftruncate(self._file, size)
                raise

    def close(self) -> None:
        """Close the file and release the run's lock. May be called more than once."""
        for descriptor in (self._file, self._lock):
            if descriptor is not None:
                os.close(descriptor)
        self._file = self._lock = None


def _claim(folder: Path, patience_s: float) -> int:
    deadline = time.monotonic() + patience_s
    while (lock := try_lock(folder / LOCK)) is None:
        if time.monotonic() > deadline:
            raise RunBusyError(f"run {folder.name} is being done by another process: {folder}")
        time.sleep(0.05)
    return lock


def _open_for_append(path: Path) -> int:
    file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
    size = os.fstat(file).st_size
    if size and os.pread(file, 1, size - 1) != b"\n":
        os.write(file, b"\n")  # close the line that a crash tore
    return file
