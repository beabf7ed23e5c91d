"""Starts and stops a publisher in the background of a command.

The module does not import MLflow, since the import and the creation of an SQLite store take about ten seconds.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from bench.records.leases import holder
from bench.tracking.location import LOCK, log_file, sqlite_file, tracking_uri
from bench.tracking.mlflow_setup import URI
from bench.tracking.reader import pending
from reproduce.files.disk import why_no_room
from reproduce.files.locks import is_locked
from reproduce.text.redaction import redacted

HURRY_S = 3.0
"""Seconds that `stop_publisher` waits once its caller is in a hurry."""
RESTART_S, LONGEST_RESTART_S = 5.0, 300.0
"""Seconds after which a publisher that has died is started again, at first and at most. The pause doubles each time."""
STEADY_S = 60.0
"""Seconds of life after which the death of a publisher counts as the first one again."""


class BackgroundPublisher:
    """A publisher process that `start_publisher` has started.

    It makes a last pass and ends when `stop_publisher` is called or when the process that started it dies. If it dies
    itself, for instance because the machine ran out of memory, it is started again.

    Args:
        records: The absolute path of the folder of the records.
        uri: The URI of the tracking store.
    """

    def __init__(self, records: Path, uri: str) -> None:
        self.records = records
        self.uri = uri
        self.process = self._start()
        """The publisher, in a session of its own. It ends once its standard input is closed."""
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        threading.Thread(target=self._start_again, daemon=True).start()

    def stop(self) -> None:
        """Ask the publisher for its last pass. One that has died and left something to do is started once more."""
        self._stopping.set()
        with self._lock:
            if self.process.poll() is not None and pending(self.records, self.uri):
                self.process = self._start()
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.send_signal(signal.SIGCONT)  # a stopped one would keep its lease after this command

    def _start(self) -> subprocess.Popen[bytes]:
        with open(log_file(self.records, "publisher"), "ab") as log:
            return subprocess.Popen(
                [*publisher_command(self.records), "--until-stdin-closes"],
                env=publisher_environment(self.uri),
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C reaches only the driver, so that the publisher makes its last pass
            )

    def _start_again(self) -> None:
        pause_s = RESTART_S
        while True:
            started = time.monotonic()
            code = self.process.wait()
            if time.monotonic() - started > STEADY_S:
                pause_s = RESTART_S
            if self._stopping.wait(pause_s):
                return
            pause_s = min(2 * pause_s, LONGEST_RESTART_S)
            with self._lock:
                if self._stopping.is_set():
                    return
                self.process = self._start()
            with open(log_file(self.records, "publisher"), "a", encoding="utf-8") as log:
                log.write(f"the publisher had ended with exit code {code}, and is started again\n")


def publisher_command(records: Path) -> list[str]:
    """Return the command line that publishes all experiments in these records until it is stopped.

    Args:
        records: The folder of the records.
    """
    return [sys.executable, "-m", "bench.tracking.publisher", "--records", str(records)]


def publisher_environment(uri: str) -> dict[str, str]:
    """Return the environment variables for `publisher_command`.

    The URI of the tracking store is passed by them, because it may hold a password, and every user of a machine can
    read command lines.

    Args:
        uri: The URI of the tracking store.
    """
    return {**os.environ, URI: uri}


def start_publisher(records: Path, *, uri: str | None = None) -> BackgroundPublisher:
    """Start a process that publishes all experiments in these records, and return without waiting for it.

    The process writes its output to `<records>/logs/publisher.log`. Call `stop_publisher` to end it.

    Args:
        records: The folder of the records.
        uri: The URI of the tracking store. None means the store that `tracking_uri` returns.

    Raises:
        UserError: See `tracking_uri`.
    """
    records = records.resolve()
    return BackgroundPublisher(records, uri or tracking_uri(records))


def stop_publisher(
    publisher: BackgroundPublisher, *, timeout_s: float = 60.0, hurry: Callable[[], bool] = lambda: False
) -> str | None:
    """Ask the publisher for its last pass and wait until it has ended.

    Args:
        publisher: The publisher, as `start_publisher` returned it.
        timeout_s: Seconds after which the publisher is killed.
        hurry: Polled during the wait. Once it returns True, the wait lasts at most another `HURRY_S` seconds, and a
            publisher that is still at work then is not killed but finishes in the background.

    Returns:
        None if everything is published, otherwise a message for the user that says what is missing.
    """
    publisher.stop()
    deadline, hurried = time.monotonic() + timeout_s, False
    while publisher.process.poll() is None and time.monotonic() < deadline:
        if hurry() and not hurried:
            deadline, hurried = min(deadline, time.monotonic() + HURRY_S), True
        time.sleep(0.1)
    if publisher.process.poll() is None:
        if hurried:
            return f"the rest is published to MLflow at {redacted(publisher.uri)} in the background"
        publisher.process.kill()
        publisher.process.wait()
    missing = pending(publisher.records, publisher.uri)
    return unpublished_message(publisher.records, publisher.uri, missing) if missing else None


def unpublished_message(records: Path, uri: str, missing: int) -> str:
    """Return a message that runs are not published, with the command that publishes them.

    Args:
        records: The folder of the records.
        uri: The URI of the tracking store.
        missing: The number of runs and evaluations that `pending` counts, at least 1.
    """
    what = "runs or evaluations are" if missing > 1 else "run or evaluation is"
    if full := _why_no_room(uri):
        cause = f": {full}"
    elif is_locked((folder := records / "publisher") / LOCK):
        other = holder(folder, LOCK) or "an unknown host"  # earlier versions left the file empty
        cause = f": another publisher works on them or hangs, on {other}, which has to end first"
    else:
        perhaps = "the server is away, or refuses the name or password, or a file of the records is damaged"
        cause = f" ({perhaps}; see {log_file(records, 'publisher')})"
    return (
        f"{missing} {what} not wholly in MLflow at {redacted(uri)}{cause}; nothing is lost. Publish later with: "
        f"deeper publish --once --records {shlex.quote(str(records))}"
    )


def store_without_room(records: Path) -> str | None:
    """Return the message of `unpublished_message` if the disk of the tracking store is full and something is missing.

    Args:
        records: The folder of the records.
    """
    uri = tracking_uri(records)
    if _why_no_room(uri) is None:
        return None
    missing = pending(records, uri)
    return unpublished_message(records, uri, missing) if missing else None


def _why_no_room(uri: str) -> str | None:
    """Return the sentence that the disk of a tracking store is full; None if it is not, or if the store is no file."""
    file = sqlite_file(uri)
    return why_no_room(file) if file is not None and file.parent.is_dir() else None
