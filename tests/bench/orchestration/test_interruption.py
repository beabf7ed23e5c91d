"""Signals and stop files, as the driver sees them."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

from bench.orchestration.interruption import Interruption


def test_the_first_signal_gives_a_reason_and_ends_a_wait() -> None:
    with Interruption() as interruption:
        assert interruption.reason is None
        threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGTERM)).start()
        interruption.wait(600)
        assert interruption.reason == "terminated"
        assert interruption.signalled
        before = time.monotonic()
        interruption.wait(0.3)
        assert time.monotonic() - before >= 0.3, "a loop that waits does not spin after the signal"


def test_a_stop_file_gives_its_reason_once_it_is_written(tmp_path: Path) -> None:
    stop = tmp_path / "stop"
    with Interruption(stop) as interruption:
        assert interruption.reason is None
        stop.touch()
        assert interruption.reason is None
        stop.write_text("time limit\n", encoding="utf-8")
        assert interruption.reason == "time limit"
        assert not interruption.signalled
