"""The process that mirrors records into MLflow, so that neither driver nor trainer waits for it.

    python -m bench.tracking.publisher --records DIR [--tracking-uri URI] [--experiment NAME ...] [--once]

It may be killed at any moment and started again (see `bench.tracking.mirror`). One publisher works on a records
folder at a time; others wait for it. While the server is away nothing is lost: it is tried again at growing
intervals, up to 30 s.
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
from collections.abc import Callable, Sequence
from pathlib import Path

from bench.records.locks import try_lock
from bench.tracking.mirror import Mirror
from bench.tracking.store import MlflowAbsent, pending, require_mlflow, tracking_uri

LONGEST_PAUSE_S = 30.0

log = logging.getLogger("bench.tracking.publisher")


def main(arguments: Sequence[str] | None = None) -> int:
    """0 if all is mirrored, 1 if the store was away or rejected something to the last (the log says what)."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.tracking.publisher", description="Mirror records into MLflow."
    )
    parser.add_argument("--records", type=Path, required=True, help="folder of the records")
    parser.add_argument("--tracking-uri", help="default: $MLFLOW_TRACKING_URI, or sqlite beside the records")
    parser.add_argument("--experiment", action="append", default=[], help="only this experiment (may be repeated)")
    parser.add_argument("--once", action="store_true", help="mirror what there is and end")
    parser.add_argument("--until-stdin-closes", action="store_true", help="end, after a last pass, with the starter")
    parser.add_argument("--every", type=float, default=2.0, help="seconds between passes (default: 2)")
    parser.add_argument("--patience", type=float, default=30.0, help="seconds that the last pass is tried for")
    options = parser.parse_args(arguments)
    try:
        require_mlflow()
    except MlflowAbsent as absent:
        parser.error(str(absent))
    records = options.records.resolve()
    uri = options.tracking_uri or tracking_uri(records)
    folder = records / "publisher"
    folder.mkdir(parents=True, exist_ok=True)
    (records / "logs").mkdir(exist_ok=True)
    logging.basicConfig(
        filename=records / "logs" / "publisher.log", level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s"
    )
    os.chdir(folder)  # MLflow leaves an empty folder where it is opened

    stop = threading.Event()
    if options.once:
        stop.set()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    if options.until_stdin_closes:
        threading.Thread(target=_await_starter, args=[stop], daemon=True).start()

    names = tuple(options.experiment)
    lock = _wait_for(folder / "lock", stop, options.patience, lambda: pending(records, uri, names))
    if lock is None:
        return int(pending(records, uri, names) > 0)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            return _follow(records, uri, names, stop, options.every, options.patience)
    finally:
        os.close(lock)


def _await_starter(stop: threading.Event) -> None:
    os.read(0, 1)  # returns at the end of the file: when the starter closed it, or died
    stop.set()


def _wait_for(lock: Path, stop: threading.Event, patience_s: float, missing: Callable[[], int]) -> int | None:
    """Wait for the other publisher to end; None if, told to stop, there is nothing left to do or no more patience."""
    deadline = float("inf")
    while (held := try_lock(lock)) is None:
        if stop.is_set():
            deadline = min(deadline, time.monotonic() + patience_s)
            if not missing() or time.monotonic() > deadline:
                return None
        time.sleep(0.2)
    return held


def _follow(
    records: Path, uri: str, names: Sequence[str], stop: threading.Event, every_s: float, patience_s: float
) -> int:
    """Pass after pass until told to stop, then a last one, tried for as long as patience lasts."""
    mirror: Mirror | None = None
    pause = every_s
    deadline: float | None = None
    log.info("mirroring %s into %s", records, uri)
    while True:
        final = stop.is_set()
        if final and deadline is None:
            deadline, pause = time.monotonic() + patience_s, 0.5
        try:
            mirror = mirror or Mirror(records, uri)
            complete = mirror.publish(names, final=final)
            pause = every_s if complete else min(2 * pause, LONGEST_PAUSE_S)
            if final:
                log.info("ended; %s", "all is mirrored" if complete else "the store rejected something, see above")
                return int(not complete)
        except Exception as error:  # whatever it is, the records stay and it is tried again
            pause = min(2 * pause, LONGEST_PAUSE_S)
            log.warning("%s: not now, next try in %.0f s: %s: %s", uri, pause, type(error).__name__, error)
            if deadline is not None and time.monotonic() + pause > deadline:
                log.error("ended; not all is mirrored")
                return 1
        if final:
            time.sleep(pause)
        else:
            stop.wait(pause)


if __name__ == "__main__":
    sys.exit(main())
