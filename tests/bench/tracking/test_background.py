"""The publisher in the background of a command."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path

import pytest

from bench import cli
from bench.records.leases import try_acquire
from bench.tracking import background
from bench.tracking.background import (
    publisher_command,
    publisher_environment,
    start_publisher,
    stop_publisher,
    unpublished_message,
)
from bench.tracking.location import LOCK, tracking_uri
from bench.tracking.reader import pending


def test_a_server_that_is_away_is_reported_and_nothing_is_lost(one_run: Path, free_port: int) -> None:
    away = f"http://127.0.0.1:{free_port}"
    publisher = start_publisher(one_run, uri=away)
    message = stop_publisher(publisher, timeout_s=4)
    assert message is not None
    assert "1 run or evaluation is not wholly in MLflow" in message
    assert away in message
    assert f"deeper publish --once --records {one_run}" in message
    assert pending(one_run, away) == 1


def test_a_password_of_the_server_is_on_no_command_line_and_in_no_file(
    one_run: Path, free_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"):
        monkeypatch.setenv(name, "")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://me:hunter22@127.0.0.1:{free_port}")
    publisher = start_publisher(one_run)
    command, deadline = b"", time.monotonic() + 120
    while not command:  # the kernel shows it a moment after the start
        command = Path(f"/proc/{publisher.process.pid}/cmdline").read_bytes()
        assert time.monotonic() < deadline
    assert b"bench.tracking.publisher" in command
    assert b"hunter22" not in command
    message = stop_publisher(publisher, timeout_s=4)
    assert message is not None
    assert f"http://127.0.0.1:{free_port}" in message
    assert "hunter22" not in message
    assert [path for path in one_run.rglob("*") if path.is_file() and b"hunter22" in path.read_bytes()] == []


def test_the_command_that_publishes_later_can_be_typed_where_a_path_has_spaces(tmp_path: Path) -> None:
    message = unpublished_message(tmp_path / "my records", tracking_uri(tmp_path), 1)
    assert message.endswith(f"deeper publish --once --records '{tmp_path}/my records'")


def test_a_publisher_that_is_killed_is_started_again_and_publishes(
    one_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bench.tracking.background.RESTART_S", 0.1)
    publisher = start_publisher(one_run, uri=tracking_uri(one_run))
    first = publisher.process
    first.kill()
    deadline = time.monotonic() + 60
    while publisher.process is first:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert stop_publisher(publisher, timeout_s=120) is None
    assert "exit code -9, and is started again" in (one_run / "logs" / "publisher.log").read_text(encoding="utf-8")


@pytest.mark.parametrize(("steady_s", "pauses"), [(60.0, [0.1, 0.2, 0.4]), (0.0, [0.1, 0.1, 0.1])])
def test_the_pause_before_a_restart_doubles_unless_the_publisher_had_lived_for_long(
    one_run: Path, monkeypatch: pytest.MonkeyPatch, steady_s: float, pauses: list[float]
) -> None:
    monkeypatch.setattr(background, "RESTART_S", 0.1)
    monkeypatch.setattr(background, "STEADY_S", steady_s)
    monkeypatch.setattr(background, "publisher_command", lambda _: ["true"])
    waited: list[float] = []
    wait = threading.Event.wait

    def note(event: threading.Event, timeout: float | None = None) -> bool:
        if timeout is not None and len(waited) < len(pauses):
            waited.append(timeout)
        return wait(event, timeout)

    monkeypatch.setattr(threading.Event, "wait", note)
    publisher = start_publisher(one_run, uri=tracking_uri(one_run))
    deadline = time.monotonic() + 60
    while len(waited) < len(pauses):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    publisher.stop()
    assert waited == pauses


def test_a_publisher_that_is_killed_shortly_before_the_end_of_the_command_publishes_the_rest(one_run: Path) -> None:
    publisher = start_publisher(one_run, uri=tracking_uri(one_run))
    publisher.process.kill()
    publisher.process.wait()
    assert stop_publisher(publisher, timeout_s=120) is None


def test_a_publisher_that_was_stopped_publishes_the_rest(one_run: Path) -> None:
    publisher = start_publisher(one_run, uri=tracking_uri(one_run))
    publisher.process.send_signal(signal.SIGSTOP)
    assert stop_publisher(publisher, timeout_s=120) is None
    assert publisher.process.returncode == 0


def test_a_publisher_that_waits_for_one_that_hangs_says_which_one(one_run: Path) -> None:
    uri = tracking_uri(one_run)
    lease = try_acquire(one_run / "publisher", LOCK)
    assert lease is not None
    with lease:
        command = [*publisher_command(one_run), "--once", "--patience", "0"]
        assert subprocess.run(command, env=publisher_environment(uri), check=False).returncode == 1
        message = unpublished_message(one_run, uri, pending(one_run, uri))
    hanging = f"{socket.gethostname()} (process {os.getpid()})"
    assert f"another publisher works on them or hangs, on {hanging}, which has to end first" in message
    assert hanging in (one_run / "logs" / "publisher.log").read_text(encoding="utf-8")


def test_a_command_in_a_hurry_lets_the_publisher_end_by_itself(one_run: Path, free_port: int) -> None:
    publisher = start_publisher(one_run, uri=f"http://127.0.0.1:{free_port}")
    try:
        message = stop_publisher(publisher, timeout_s=600, hurry=lambda: True)
        assert message is not None
        assert message.endswith("in the background")
        assert publisher.process.poll() is None
    finally:
        publisher.process.kill()
        publisher.process.wait()


def test_a_full_disk_is_one_sentence_and_everything_is_published_once_there_is_room(
    one_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(disk)], check=False).returncode:
        pytest.skip("file systems cannot be mounted here")
    try:
        records = disk / "records"
        shutil.copytree(one_run / "runs", records / "runs")
        shutil.copytree(one_run / "experiments", records / "experiments")
        (disk / "filling").write_bytes(bytes(shutil.disk_usage(disk).free - 2**18))  # MLflow makes some of its tables
        uri = tracking_uri(records)
        command = [*publisher_command(records), "--once", "--patience", "0"]
        assert subprocess.run(command, env=publisher_environment(uri), check=False).returncode == 1
        message = unpublished_message(records, uri, pending(records, uri))
        sentence = rf"mlflow.db cannot be written: the disk {disk} is full \(No space left on device\): \d+ of 25165824"
        assert re.search(sentence, message)
        assert "nothing is lost" in message
        assert cli.main(["status", "first", "--records", str(records)]) == 0
        assert re.search(sentence, " ".join(capsys.readouterr().out.split()))
        (disk / "filling").unlink()
        assert subprocess.run(command, env=publisher_environment(uri), check=False).returncode == 0
        assert pending(records, uri) == 0
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)
