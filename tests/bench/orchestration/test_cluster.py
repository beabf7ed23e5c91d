"""Starting Ray: its messages stay off the terminal, and its processes do not see the signals of the driver's group."""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from bench.orchestration import cluster


def test_messages_of_ray_go_to_a_log_and_those_of_python_to_the_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "logs" / "ray.log"
    blocked: list[set[Any]] = []
    threads: list[threading.Thread] = []

    def init(**_: Any) -> None:
        """Write to standard error as Ray's native code does, and note the signal mask that a child would inherit."""
        os.write(2, b"network_util.cc:330: Failed to determine local IP\n")
        blocked.append(signal.pthread_sigmask(signal.SIG_BLOCK, ()))
        threads.append(threading.current_thread())

    monkeypatch.setattr(cluster.ray, "init", init)
    monkeypatch.setattr(cluster.ray, "shutdown", lambda: os.write(2, b"raylet ended\n"))
    before, stderr = signal.getsignal(signal.SIGTERM), sys.stderr
    with cluster.cluster(None, log):
        print("ours", file=sys.stderr)
        assert signal.getsignal(signal.SIGTERM) == before
        assert threads[0] is not threading.main_thread(), "there, Ray would set a handler of SIGTERM"
        assert threads[0].is_alive(), "Ray's processes end with the thread that started them"
        assert not {signal.SIGTERM, signal.SIGINT} & signal.pthread_sigmask(signal.SIG_BLOCK, ())
    assert sys.stderr is stderr
    os.write(2, b"afterwards\n")
    assert capfd.readouterr().err == "ours\nafterwards\n"
    assert log.read_text(encoding="utf-8") == "network_util.cc:330: Failed to determine local IP\nraylet ended\n"
    assert {signal.SIGTERM, signal.SIGINT} <= blocked[0]


def test_the_terminal_is_given_back_if_ray_does_not_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def init(**_: Any) -> None:
        raise ConnectionError("no Ray at that address")

    monkeypatch.setattr(cluster.ray, "init", init)
    with pytest.raises(ConnectionError), cluster.cluster("nowhere:1", tmp_path / "ray.log"):
        pass
    os.write(2, b"afterwards\n")
    assert capfd.readouterr().err == "afterwards\n"
    assert not {signal.SIGTERM, signal.SIGINT} & signal.pthread_sigmask(signal.SIG_BLOCK, ())
