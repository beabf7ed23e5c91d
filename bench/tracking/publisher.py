"""Runs the process that publishes records, so that neither the driver nor training waits for MLflow.

    python -m bench.tracking.publisher --records DIR [--tracking-uri URI] [--experiment NAME ...] [--once]

`deeper publish` does the same for people. The process may be killed and started again at any moment. One publisher at a
time works on a folder of records; others wait for it. Nothing is lost while the tracking store is away: the publisher
tries again at intervals that grow to 30 s.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.records.leases import Lease, holder, try_acquire
from bench.records.plan import read_plan
from bench.tracking.location import LOCK, log_file, tracking_uri
from bench.tracking.mlflow_setup import require_mlflow
from bench.tracking.publishing import Publisher
from bench.tracking.reader import pending
from reproduce.errors import UserError
from reproduce.text.redaction import redacted, redacting

LONGEST_PAUSE_S = 30.0
LAST_PASS_PAUSE_S = 0.5
"""Initial pause between repetitions of the last pass, in seconds. Each failure doubles the pause before it is made."""

log = logging.getLogger("bench.tracking.publisher")


@dataclass(frozen=True)
class PublisherOptions:
    """Options of a publisher: its records, its tracking store, and when it ends."""

    records: Path
    """The absolute path of the folder of the records."""
    uri: str
    """The URI of the tracking store."""
    experiments: tuple[str, ...] = ()
    """The names of the experiments to publish. Empty means all experiments in the records."""
    once: bool = False
    """Whether the publisher makes a single pass, which is its last pass, and ends."""
    until_stdin_closes: bool = False
    """Whether the publisher makes its last pass and ends once standard input is closed.

    Standard input closes when the parent process closes it or dies."""
    every_s: float = 2.0
    """Seconds between two passes."""
    patience_s: float = 30.0
    """Seconds for which the last pass is repeated while the store is away or another publisher is at work."""


def run_publisher(options: PublisherOptions) -> int:
    """Publish until SIGTERM, SIGINT or the options end it, then make a last pass.

    Call it in the main thread of a process that does nothing else. It replaces the handlers of SIGTERM and SIGINT,
    configures logging into `<records>/logs/publisher.log`, changes the current folder to `<records>/publisher`, and
    redirects standard output to standard error while it publishes.

    Returns:
        The exit code: 0 if everything is published; 1 if the store rejected something, if it stayed away, or if
        another publisher left something to do and kept its lock. The log says what is missing.

    Raises:
        MlflowMissingError: MLflow is not installed.
        SpecError: An experiment that `options` names was never planned in these records.
    """
    require_mlflow()
    for name in options.experiments:
        read_plan(options.records, name)
    folder = options.records / "publisher"
    folder.mkdir(parents=True, exist_ok=True)
    path = log_file(options.records, "publisher")
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(_RedactingFormatter("%(asctime)s %(levelname)s %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    os.chdir(folder)  # MLflow leaves an empty folder in the current one
    stop = threading.Event()
    if options.once:
        stop.set()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    if options.until_stdin_closes:
        threading.Thread(target=_stop_when_stdin_closes, args=[stop], daemon=True).start()

    lease = _wait_for_lease(folder, options, stop)
    if lease is None:
        return int(_pending(options) > 0)
    with lease, contextlib.redirect_stdout(sys.stderr):
        return _publish_until_stopped(options, stop)


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line and run a publisher.

    Args:
        arguments: The words of the command line. None means those of this process.

    Returns:
        The exit code of `run_publisher`.

    Raises:
        SystemExit: The command line is wrong, or `run_publisher` raised a `UserError`. The exit code is 2.
    """
    parser = argparse.ArgumentParser(
        prog="python -m bench.tracking.publisher", description="Publish records to MLflow."
    )
    parser.add_argument("--records", type=Path, required=True, help="folder of the records")
    parser.add_argument("--tracking-uri", help="default: $MLFLOW_TRACKING_URI, or SQLite beside the records")
    parser.add_argument("--experiment", action="append", default=[], help="only this experiment (may be repeated)")
    parser.add_argument("--once", action="store_true", help="publish what there is, then end")
    parser.add_argument(
        "--until-stdin-closes", action="store_true", help="end, after a last pass, with the parent process"
    )
    parser.add_argument("--every", type=float, default=2.0, help="seconds between passes (2)")
    parser.add_argument("--patience", type=float, default=30.0, help="seconds to repeat the last pass for (30)")
    options = parser.parse_args(arguments)
    records = options.records.resolve()
    try:
        return run_publisher(
            PublisherOptions(
                records=records,
                uri=tracking_uri(records, options.tracking_uri),
                experiments=tuple(options.experiment),
                once=options.once,
                until_stdin_closes=options.until_stdin_closes,
                every_s=options.every,
                patience_s=options.patience,
            )
        )
    except UserError as error:
        parser.error(str(error))


class _RedactingFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return redacted(super().format(record))


def _stop_when_stdin_closes(stop: threading.Event) -> None:
    os.read(0, 1)  # returns at the end of the file
    stop.set()


def _pending(options: PublisherOptions) -> int:
    return pending(options.records, options.uri, options.experiments)


def _wait_for_lease(folder: Path, options: PublisherOptions, stop: threading.Event) -> Lease | None:
    """Take the lease of the publishers' folder, which may take as long as another publisher works.

    Returns:
        The lease. None if `stop` was set meanwhile and either nothing is left to publish or the other publisher
        outlasts `options.patience_s`.
    """
    deadline = float("inf")
    while (lease := try_acquire(folder, LOCK)) is None:
        if stop.is_set():
            deadline = min(deadline, time.monotonic() + options.patience_s)
            if not _pending(options):
                return None
            if time.monotonic() > deadline:
                log.error("ended; not all is published, and another publisher works on it: %s", holder(folder, LOCK))
                return None
        time.sleep(0.2)
    return lease


def _publish_until_stopped(options: PublisherOptions, stop: threading.Event) -> int:
    """Make passes until `stop` is set, then a last one, which is repeated while patience lasts.

    Returns:
        The exit code of `run_publisher`.
    """
    publisher: Publisher | None = None
    pause = options.every_s
    deadline: float | None = None
    log.info("publishing %s to %s", options.records, options.uri)
    while True:
        final = stop.is_set()
        if final and deadline is None:
            deadline, pause = time.monotonic() + options.patience_s, LAST_PASS_PAUSE_S
        try:
            publisher = publisher or Publisher(options.records, options.uri)
            complete = publisher.publish(options.experiments, final=final)
            pause = options.every_s if complete else min(2 * pause, LONGEST_PAUSE_S)
            if final:
                log.info("ended; %s", "all is published" if complete else "the store rejected something, see above")
                return int(not complete)
        except Exception as error:  # whatever it is, the records stay, and the next pass tries again
            pause = min(2 * pause, LONGEST_PAUSE_S)
            log.warning("%s: failed, next try in %.0f s: %s: %s", options.uri, pause, type(error).__name__, error)
            if deadline is not None and time.monotonic() + pause > deadline:
                log.error("ended; not all is published")
                return 1
        if final:
            time.sleep(pause)
        else:
            stop.wait(pause)


if __name__ == "__main__":
    sys.stdout, sys.stderr = redacting(sys.stdout), redacting(sys.stderr)  # tracebacks, too
    sys.exit(main())
