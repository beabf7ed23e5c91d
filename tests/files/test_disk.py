"""A full disk is named, with its free bytes, and what was there before is kept."""

from __future__ import annotations

import contextlib
import errno
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from bench.records.event_log import EventLog
from bench.records.predictions import write_predictions
from bench.records.states import EVENTS, read_events
from bench.telemetry.samples import attempt_file, read_samples, write_samples
from reproduce import schema
from reproduce.data import synthetic
from reproduce.data.writing import PrepareConfig, _Preparation, prepare
from reproduce.errors import CannotContinueError
from reproduce.files.atomic import write_atomically
from reproduce.files.disk import DiskFullError, naming_full_disk
from reproduce.training import checkpoint

FULL = r"small-disk is full \(No space left on device\): \d+ of 1048576 bytes are free"


def fill(disk: Path) -> None:
    """Leave no room at all."""
    with (disk / "filling").open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))


def files(disk: Path) -> set[str]:
    return {path.name for path in disk.rglob("*")}


def test_a_file_for_which_there_is_no_room_keeps_its_old_content(small_disk: Path) -> None:
    write_atomically(small_disk / "file", b"old")
    with pytest.raises(DiskFullError, match=rf"/file cannot be written: the disk .*{FULL}"):
        write_atomically(small_disk / "file", bytes(2 << 20))
    assert (small_disk / "file").read_bytes() == b"old"
    assert files(small_disk) == {"file"}


def test_a_checkpoint_for_which_there_is_no_room_leaves_both_older_ones(small_disk: Path) -> None:
    for epoch in (1, 2):
        checkpoint.save(small_disk, {"key": "k", "epoch": epoch, "step": 0})
    with pytest.raises(DiskFullError, match=rf"checkpoint\.pt cannot be written: .*{FULL}"):
        checkpoint.save(small_disk, {"key": "k", "epoch": 3, "step": 0, "weights": torch.rand(1 << 19)})
    assert files(small_disk) == {"checkpoint.pt", "checkpoint-before.pt"}
    assert checkpoint.resume_point(small_disk, "k") == ({"epoch": 2, "step": 0}, [])


def test_an_event_is_written_as_a_whole_or_not_at_all(small_disk: Path) -> None:
    log = EventLog(small_disk, patience_s=0)
    log.append(schema.START, 1, environment={}, epochs=1)
    fill(small_disk)
    with pytest.raises(DiskFullError, match=rf"events\.jsonl cannot be written: .*{FULL}"):
        log.append(schema.EPOCH, 1, metrics={"noise": 0.5}, text="x" * 5000)
    assert (small_disk / EVENTS).read_bytes().count(b"\n") == 1
    (small_disk / "filling").unlink()
    log.append(schema.EPOCH, 1, epoch=0, metrics={})
    log.close()
    assert [event["kind"] for event in read_events(small_disk)] == [schema.START, schema.EPOCH]


def test_predictions_and_telemetry_name_the_disk(small_disk: Path) -> None:
    attempt_file(small_disk, 1).write_text('{"t": 1.0, "attempt": 1, "device": "host"}\n', encoding="utf-8")
    samples = read_samples(small_disk)
    fill(small_disk)
    with pytest.raises(DiskFullError, match=rf"telemetry\.parquet cannot be written: .*{FULL}"):
        write_samples(small_disk, samples)
    with pytest.raises(DiskFullError, match=rf"predictions\.parquet cannot be written: .*{FULL}"):
        write_predictions(small_disk, {"index": np.arange(9)})


def test_preparing_names_the_disk_and_leaves_no_half_files(small_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_Preparation, "_check_space", lambda *_: None)  # which refuses beforehand
    with pytest.raises(DiskFullError, match=FULL):
        prepare(synthetic(classes=2, images=200, size=64), small_disk / "out", PrepareConfig(workers=1))
    assert files(small_disk) == {"out"}


def test_the_limit_on_the_size_of_files_is_named(tmp_path: Path) -> None:
    code = """
import resource, sys
from pathlib import Path
from reproduce.files.atomic import write_atomically
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
write_atomically(Path(sys.argv[1]), bytes(5000))
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "file")], capture_output=True, encoding="utf-8", check=False
    )
    assert "DiskFullError" in done.stderr
    assert "a file may have at most 1000 bytes here; raise the limit (ulimit -f)" in done.stderr


def test_a_device_without_room_and_a_quota_count_as_full_and_other_errors_do_not() -> None:
    device = Path("/dev/full")
    with pytest.raises(CannotContinueError, match="/dev/full cannot be written"), naming_full_disk(device):
        device.write_bytes(b"x")
    with pytest.raises(DiskFullError, match="quota"), naming_full_disk(device):
        raise OSError(errno.EDQUOT, "Disk quota exceeded")
    with pytest.raises(PermissionError), naming_full_disk(device):
        raise PermissionError(errno.EACCES, "Permission denied")
