"""`deeper run` on a disk that fills up while it trains, and after somebody has made room."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from bench.records.plan import read_plan
from bench.records.states import read_events, read_state, run_folder
from reproduce.data import synthetic
from reproduce.data.writing import PrepareConfig, prepare
from tests.patience import PATIENCE_S

pytestmark = pytest.mark.long

EXPERIMENT = {
    "name": "full",
    "data": {"path": "stripes"},
    "recipe": {"epochs": 2, "batch_size": 32, "learning_rate": 0.02, "resolution": 32},
    "resources": {"workers": 1, "cpus_per_worker": 1, "retries": 2},
    "arms": {"none": {"network": {"aux": "none"}}},
    "seeds": [0, 1],
}


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own with room for 600 MiB."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=600m", "tmpfs", str(place)]
    if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("file systems cannot be mounted here")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def run(folder: Path, disk: Path) -> subprocess.CompletedProcess[str]:
    arguments = ["run", "full.yaml", "--no-publish", "--concurrent", "1", "--records", str(disk / "records")]
    return subprocess.run(
        [sys.executable, "-m", "bench.cli", *arguments],
        cwd=folder,
        capture_output=True,
        encoding="utf-8",
        timeout=PATIENCE_S,
        check=False,
    )


def fill_once_a_run_has_begun(disk: Path, done: threading.Event) -> None:
    while not list(disk.glob("records/runs/*/events.jsonl")):
        if done.wait(0.05):
            return
    with (disk / "filling").open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(1 << 16))
        except OSError:
            file.truncate(file.tell() - (4 << 20))  # leaves 4 MiB, too little for a checkpoint


def test_a_full_disk_stops_the_grid_and_the_same_command_resumes_it(tmp_path: Path, disk: Path) -> None:
    prepare(synthetic(classes=4, images=128, size=32, seed=0), tmp_path / "data/stripes", PrepareConfig(workers=1))
    (tmp_path / "full.yaml").write_text(yaml.safe_dump(EXPERIMENT), encoding="utf-8")
    done = threading.Event()
    filling = threading.Thread(target=fill_once_a_run_has_begun, args=(disk, done))
    filling.start()
    first = run(tmp_path, disk)
    done.set()
    filling.join()
    records = disk / "records"
    folders = [run_folder(records, entry.key) for entry in read_plan(records, "full")]
    assert first.returncode == 75, first.stdout + first.stderr
    assert "checkpoint.pt cannot be written: the disk" in " ".join(first.stdout.split())
    states = [read_state(folder) for folder in folders]
    assert sorted((state.status, state.attempt) for state in states) == [("interrupted", 1), ("waiting", 0)]
    (reason,) = (state.reason for state in states if state.status == "interrupted")
    assert "bytes are free" in (reason or "")

    (disk / "filling").unlink()
    second = run(tmp_path, disk)
    assert second.returncode == 0, second.stdout + second.stderr
    assert [read_state(folder).status for folder in folders] == ["finished", "finished"]
    assert {event["outcome"] for folder in folders for event in read_events(folder) if event["kind"] == "end"} == {
        "interrupted",
        "finished",
    }
    assert not list(records.rglob("checkpoint-before.pt"))
