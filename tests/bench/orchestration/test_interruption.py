"""Signals and stop files, as the driver sees them."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import pytest

from bench.orchestration import interruption as module
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


def test_a_stop_file_gives_its_reason_once_it_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "STOP_FILE_EVERY_S", 0.0)
    stop = tmp_path / "stop"
    with Interruption(stop) as interruption:
        assert interruption.reason is None
        stop.touch()
        assert interruption.reason is None
        stop.write_text("time limit\n", encoding="utf-8")
        assert interruption.reason == "time limit"
        assert not interruption.signalled
        stop.write_bytes(b"caf\xe9")
        assert interruption.reason == "caf\ufffd"


def test_a_stop_file_is_looked_for_every_few_seconds_however_often_it_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[Path] = []
    monkeypatch.setattr(Path, "read_text", lambda path, **_: looks.append(path) or "")  # type: ignore[func-returns-value]
    with Interruption(tmp_path / "stop") as interruption:
        assert [interruption.reason for _ in range(100)] == [None] * 100
    assert len(looks) == 1
