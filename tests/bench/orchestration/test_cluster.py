"""Starting Ray: its messages stay off the terminal, and its processes do not see the signals of the driver's group."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bench.orchestration import cluster
from reproduce.errors import UserError
from reproduce.limits import usable_cpus


def test_messages_of_ray_go_to_a_log_and_those_of_python_to_the_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "logs" / "ray.log"
    blocked: list[set[Any]] = []
    threads: list[threading.Thread] = []
    started: list[dict[str, Any]] = []

    def init(**given: Any) -> None:
        """Write to standard error as Ray's native code does, and note the signal mask that a child would inherit."""
        os.write(2, b"network_util.cc:330: Failed to determine local IP\n")
        blocked.append(signal.pthread_sigmask(signal.SIG_BLOCK, ()))
        threads.append(threading.current_thread())
        started.append(given)

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
    assert started[0]["num_cpus"] == usable_cpus()
    assert not Path(started[0]["_temp_dir"]).exists(), "nothing is left behind"


def test_the_terminal_is_given_back_if_ray_does_not_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def init(**_: Any) -> None:
        raise OSError("validate_socket_filename failed: AF_UNIX path length cannot exceed 107 bytes\n...")

    monkeypatch.setattr(cluster.ray, "init", init)
    message = "Ray does not start on this machine: validate_socket_filename failed: .* 107 bytes; see `deeper doctor`"
    with pytest.raises(UserError, match=message), cluster.cluster(None, tmp_path / "ray.log"):
        pass
    assert "Traceback" in (tmp_path / "ray.log").read_text(encoding="utf-8")
    os.write(2, b"afterwards\n")
    assert capfd.readouterr().err == "afterwards\n"
    assert not {signal.SIGTERM, signal.SIGINT} & signal.pthread_sigmask(signal.SIG_BLOCK, ())


LOCAL_CLUSTER = """
import os, sys
from pathlib import Path
from bench.orchestration import cluster
with cluster.cluster(None, Path(sys.argv[1])) as running:
    node = cluster.ray_worker._global_node
    print(*(name for name, _ in node.live_processes()))
    print(*(name for name, _ in node.dead_processes()))
    print(cluster.ray.get(cluster.ray.remote(lambda: os.getppid() != os.getpid()).remote()), running.lost())
"""


def test_a_local_cluster_computes_without_what_no_run_needs(tmp_path: Path) -> None:
    """On the real Ray, in a process of its own, since a second session of Ray in a process loses its actors."""
    command = [sys.executable, "-c", LOCAL_CLUSTER, tmp_path / "ray.log"]
    root = Path(__file__).parents[3]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=300, check=True, encoding="utf-8")
    living, dead, computed = done.stdout.splitlines()
    assert {*living.split()} & {*cluster.ESSENTIAL, *cluster.WITHOUT_USE} == {*cluster.ESSENTIAL}
    assert {*cluster.WITHOUT_USE} <= {*dead.split()}, "Ray's names for them"
    assert computed == "True None"


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("nonsense", "it is not HOST:PORT"),
        (":6379", "it is not HOST:PORT"),
        ("127.0.0.1:1", "Connection refused"),
        ("no-such-host.invalid:6379", "Name or service not known|Temporary failure in name resolution|No address"),
    ],
)
def test_an_address_at_which_nothing_listens_is_refused_at_once(tmp_path: Path, address: str, reason: str) -> None:
    """Ray itself would try for two minutes and then end the process."""
    with pytest.raises(UserError, match=f"--address: {address}: no Ray cluster can be joined there: .*({reason})"):
        cluster.cluster(address, tmp_path / "ray.log").__enter__()


def test_a_joined_cluster_is_lost_once_nothing_listens_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "CHECK_EVERY_S", 0.01)
    monkeypatch.setattr(cluster.ray_worker, "_global_node", None)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        monkeypatch.setattr(cluster.ray, "get_runtime_context", lambda: SimpleNamespace(gcs_address=address))
        joined = cluster.Cluster(address)
        time.sleep(0.02)
        assert joined.lost() is None
    time.sleep(0.02)
    assert joined.lost() is None, "it may come back"
    monkeypatch.setattr(cluster, "LOST_AFTER_S", 0.0)
    time.sleep(0.02)
    assert joined.lost() == f"Ray's control service at {address} does not answer (Connection refused)"
