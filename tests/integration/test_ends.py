"""How `deeper run` ends when something dies or hangs, with real Ray: soon, with a true sentence, and cleanly."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from bench.records.plan import read_plan
from bench.records.states import read_events, read_state, run_folder
from reproduce.data import synthetic
from reproduce.data.writing import prepare
from reproduce.spec import SpecError
from tests.patience import PATIENCE_S

EXPERIMENT: dict[str, Any] = {
    "name": "ends",
    "data": {"path": "stripes"},
    "network": {"aux": "none"},
    "recipe": {"epochs": 400, "batch_size": 32, "learning_rate": 0.02, "resolution": 32},
    "resources": {"cpus_per_worker": 1, "retries": 0},
    "arms": {"only": {}},
    "seeds": [0],
}
AGENTS = ("ray::DashboardAgent", "ray::RuntimeEnvAgent")
"""Idle helpers of Ray that try for a minute to report to a dead cluster before they end."""


class Driver:
    """A `deeper run` in a session of its own, of which a test may stop or kill any process."""

    def __init__(self, folder: Path, *options: str, workers: int = 1, tmpdir: Path | None = None) -> None:
        self.folder = folder
        resources = {**EXPERIMENT["resources"], "workers": workers}
        path = folder / f"ends-{workers}.yaml"
        path.write_text(yaml.safe_dump({**EXPERIMENT, "resources": resources}), encoding="utf-8")
        self.command = [sys.executable, "-m", "bench.cli", "run", str(path), "--no-publish", *options]
        self.output = folder / f"output-{os.urandom(4).hex()}.txt"
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(
                self.command,
                cwd=folder,
                env={**os.environ, **({"TMPDIR": str(tmpdir)} if tmpdir else {})},
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    @property
    def said(self) -> str:
        return self.output.read_text(encoding="utf-8")

    @property
    def run(self) -> Path:
        (planned,) = read_plan(self.folder / "records", "ends")
        return run_folder(self.folder / "records", planned.key)

    def wait_for_epoch(self) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not self._epochs():
            assert self.process.poll() is None, self.said
            assert time.monotonic() < deadline, self.said
            time.sleep(0.2)

    def _epochs(self) -> bool:
        with contextlib.suppress(SpecError):  # the run is not planned yet
            return any(event["kind"] == "epoch" for event in read_events(self.run))
        return False

    def children(self, name: str) -> list[psutil.Process]:
        found = []
        for child in psutil.Process(self.process.pid).children(recursive=True):
            with contextlib.suppress(psutil.Error):
                if name in " ".join(child.cmdline()[:1]):
                    found.append(child)
        return found

    def ray_folder(self) -> Path:
        """The temporary folder of the Ray that the driver has started."""
        (raylet,) = self.children("raylet/raylet")
        found = re.search(r"--raylet_socket_name=(\S*?/deeper-ray-[^/]+)/", " ".join(raylet.cmdline()))
        assert found is not None
        return Path(found[1])

    def end(self) -> None:
        if self.process.poll() is None:
            with contextlib.suppress(psutil.Error):
                for child in psutil.Process(self.process.pid).children(recursive=True):
                    child.kill()
            self.process.kill()
        self.process.wait()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ends")
    prepare(synthetic(classes=4, images=256, size=32, seed=0), folder / "stripes")
    return folder


@pytest.fixture
def place(data: Path, tmp_path: Path) -> Path:
    (tmp_path / "data").symlink_to(data)
    return tmp_path


@pytest.fixture
def drivers() -> Iterator[list[Driver]]:
    started: list[Driver] = []
    yield started
    for driver in started:
        driver.end()


@pytest.mark.long
@pytest.mark.parametrize("workers", [1, 2])
def test_a_rank_that_hangs_ends_its_run_with_the_stacks_in_its_log(
    place: Path, drivers: list[Driver], workers: int
) -> None:
    driver = Driver(place, "--step-patience-s", "5", workers=workers)
    drivers.append(driver)
    driver.wait_for_epoch()
    ranks = driver.children("ray::Worker")
    assert len(ranks) == workers
    ranks[-1].send_signal(signal.SIGSTOP)
    assert driver.process.wait(timeout=PATIENCE_S) == 1, driver.said
    error = read_state(driver.run).error
    assert error is not None
    assert "the run hangs: no step for" in error
    assert f"(process {ranks[-1].pid} on" in error
    assert "its process is stopped" in error
    log = (driver.run / "log.txt").read_text(encoding="utf-8")
    assert "from outside:" in log
    if workers == 2:
        assert "reproduce/training/" in log, "the other rank waits for the one that hangs, and says where"
    assert not any(rank.is_running() for rank in ranks)


@pytest.mark.long
@pytest.mark.parametrize("name", ["raylet", "gcs_server"])
def test_a_local_cluster_that_dies_ends_the_command_soon_and_the_run_goes_on_later(
    place: Path, drivers: list[Driver], name: str
) -> None:
    driver = Driver(place)
    drivers.append(driver)
    driver.wait_for_epoch()
    folder = driver.ray_folder()
    for process in driver.children(name):
        process.kill()
    assert driver.process.wait(timeout=PATIENCE_S) == 75, driver.said
    assert f"stopped (Ray's process {name} died); to resume: deeper run" in driver.said
    assert "Traceback" not in driver.said
    assert read_state(driver.run).status == "interrupted"
    assert not folder.exists()


@pytest.mark.long
def test_a_killed_driver_leaves_no_process_and_the_next_one_removes_its_files(
    place: Path, drivers: list[Driver]
) -> None:
    driver = Driver(place, workers=2)
    drivers.append(driver)
    driver.wait_for_epoch()
    abandoned = driver.ray_folder()
    left = psutil.Process(driver.process.pid).children(recursive=True)
    assert left
    driver.process.kill()
    agents = [process for process in left if process.name() in AGENTS]
    assert psutil.wait_procs(set(left) - set(agents), timeout=10)[1] == []
    assert psutil.wait_procs(agents, timeout=PATIENCE_S)[1] == []
    torn = driver.run / f".checkpoint.pt.{driver.process.pid}"
    torn.touch()
    again = Driver(place, workers=2)
    drivers.append(again)
    deadline = time.monotonic() + PATIENCE_S
    while len([event for event in read_events(driver.run) if event["kind"] == "start"]) < 2:
        assert time.monotonic() < deadline, again.said
        time.sleep(0.2)
    assert not torn.exists()
    assert not abandoned.exists()
    folder = again.ray_folder()
    again.process.terminate()
    assert again.process.wait(timeout=PATIENCE_S) == 75
    assert not folder.exists()


@pytest.mark.long
def test_a_second_command_says_who_has_the_runs_and_does_not_end_as_done(place: Path, drivers: list[Driver]) -> None:
    """It runs with a TMPDIR that is too long for Ray's sockets."""
    tmpdir = place / ("x" * 100)
    tmpdir.mkdir()
    first = Driver(place, tmpdir=tmpdir)
    drivers.append(first)
    first.wait_for_epoch()
    second = Driver(place, tmpdir=tmpdir)
    drivers.append(second)
    assert second.process.wait(timeout=PATIENCE_S) == 75, second.said
    assert f"left to the driver on {os.uname().nodename} (process {first.process.pid})" in second.said
    assert "1 run is left to other drivers; once they have ended: deeper run" in second.said
    assert "--no-publish" in second.said
    assert "next: deeper report" not in second.said
    first.process.terminate()
    assert first.process.wait(timeout=PATIENCE_S) == 75
    assert [path for path in tmpdir.iterdir() if "ray" in path.name] == []
