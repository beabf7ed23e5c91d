"""A publisher in the background of a command. Does not import MLflow: that and a new SQLite store take ten seconds."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bench.tracking.location import log_file, tracking_uri
from bench.tracking.reader import pending

HURRY_S = 3.0
"""Seconds for which a command that was told to stop waits for its publisher."""


@dataclass(frozen=True)
class BackgroundPublisher:
    """A publisher that ends, after a last pass, when `stop_publisher` is called or this process dies."""

    records: Path
    uri: str
    process: subprocess.Popen[bytes]


def publisher_command(records: Path, uri: str) -> list[str]:
    """The command line of a publisher of all experiments in these records."""
    return [sys.executable, "-m", "bench.tracking.publisher", "--records", str(records), "--tracking-uri", uri]


def start_publisher(records: Path, *, uri: str | None = None) -> BackgroundPublisher:
    """Start to publish all experiments in these records; whatever the publisher prints goes to its log.

    Args:
        records: folder of the records.
        uri: the tracking store; by default the one that `tracking_uri` finds.
    """
    records = records.resolve()
    uri = uri or tracking_uri(records)
    with open(log_file(records, "publisher"), "ab") as log:
        process = subprocess.Popen(
            [*publisher_command(records, uri), "--until-stdin-closes"],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            start_new_session=True,  # Ctrl-C reaches only the driver, so that the publisher makes its last pass
        )
    return BackgroundPublisher(records, uri, process)


def stop_publisher(
    publisher: BackgroundPublisher, *, timeout_s: float = 60.0, hurry: Callable[[], bool] = lambda: False
) -> str | None:
    """Let the publisher make its last pass and wait for it.

    Args:
        publisher: what `start_publisher` returned.
        timeout_s: seconds to wait before it is killed.
        hurry: asked again and again; once true, the wait ends within `HURRY_S` and the publisher ends by itself.

    Returns:
        None if everything is published, else a message for the user.
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
            return f"the rest is published to MLflow at {publisher.uri} in the background"
        publisher.process.kill()
        publisher.process.wait()
    missing = pending(publisher.records, publisher.uri)
    return unpublished_message(publisher.records, publisher.uri, missing) if missing else None


def unpublished_message(records: Path, uri: str, missing: int) -> str:
    """Tell the user that runs are not published, and how to publish them."""
    return (
        f"{missing} run{'s are' if missing > 1 else ' is'} not wholly in MLflow at {uri} (is the server away? see "
        f"{log_file(records, 'publisher')}); nothing is lost. Publish later with: "
        f"deeper publish --once --records {records}"
    )
