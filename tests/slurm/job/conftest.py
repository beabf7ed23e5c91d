"""Doubles of what a launcher starts, and a submitted experiment for it to run."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from bench.records.plan import read_plan, write_plan
from bench.records.states import RunState, read_state, run_folder
from reproduce.grid import plan_without_data
from reproduce.spec import load_experiment
from slurm.job import head_node, rendezvous, worker_node
from slurm.job.config import LauncherConfig
from slurm.job.node.allocation import Allocation
from slurm.job.node.ray_node import RayStartError

EXPERIMENT = """
name: tiny
data: {path: synthetic}
recipe: {epochs: 1, batch_size: 16, resolution: 32, learning_rate: 0.01}
arms:
  heads: {network: {aux: both}}
  plain: {network: {aux: none}}
seeds: [0]
"""
RAY_ADDRESS = "127.0.0.1:33775"


@dataclass
class RayDouble:
    """A Ray node. Unless told otherwise it listens and lives until it is killed, as the real one does."""

    listens: bool = True
    is_alive: bool = True
    killed: bool = False
    arguments: dict[str, Any] = field(default_factory=dict)
    last_words: str = "INFO scripts.py:1085 -- Ray runtime started."

    def start(self, _allocation: Allocation, _own: Any, **arguments: Any) -> RayDouble:
        self.arguments = arguments
        return self

    def wait_for_address(self) -> str:
        if not self.listens:
            raise RayStartError(f"Ray ended before it listened: {self.last_words}")
        return RAY_ADDRESS

    def wait_until_up(self) -> None:
        if not self.listens:
            raise RayStartError(f"Ray ended before it had joined: {self.last_words}")

    @property
    def is_up(self) -> bool:
        return self.listens

    def kill(self) -> None:
        self.is_alive, self.killed = False, True


@dataclass
class DriverDouble:
    """A `deeper run` that ends with `code` as soon as `until` is true."""

    code: int = 0
    mistake: str | None = None
    until: Callable[[], bool] = lambda: True
    command: list[str] | None = None
    killed: bool = False

    def start(self, command: list[str]) -> DriverDouble:
        self.command = command
        return self

    def poll(self) -> int | None:
        return self.code if self.until() else None

    def kill(self) -> None:
        self.killed = True


@dataclass(frozen=True)
class Submission:
    """An experiment of two runs that is submitted as a job."""

    config: LauncherConfig

    def allocation(self, rank: int = 0, nodes: int = 1, restarts: int = 0) -> Allocation:
        hosts = tuple(f"n{number + 1}" for number in range(nodes))
        return Allocation("17", "17", restarts, rank, hosts, cpus=2, gpus=0, memory_bytes=None)

    @property
    def rendezvous_file(self) -> Path:
        return rendezvous.rendezvous_file(self.config.folder, "17", 0)

    def states(self) -> dict[str, RunState]:
        """The state of each run by its arm."""
        entries = read_plan(self.config.records, "tiny")
        return {entry.arm: read_state(run_folder(self.config.records, entry.key)) for entry in entries}

    def statuses(self) -> dict[str, str]:
        return {arm: state.status for arm, state in self.states().items()}


@pytest.fixture
def submission(tmp_path: Path, synthetic_data: Path) -> Submission:
    folder, records, data = tmp_path / "folder", tmp_path / "records", tmp_path / "data"
    for path in (folder, data):
        path.mkdir()
    (data / "synthetic").symlink_to(synthetic_data)
    (folder / "experiment.yaml").write_text(EXPERIMENT, encoding="utf-8")
    write_plan(records, "tiny", plan_without_data(load_experiment(folder / "experiment.yaml")), {})
    # Another host of the job is not asked for on the network: all nodes of a test are this machine.
    return Submission(LauncherConfig(folder, folder / "experiment.yaml", records, data, interface="lo"))


@pytest.fixture
def ray() -> RayDouble:
    return RayDouble()


@pytest.fixture
def driver() -> DriverDouble:
    return DriverDouble()


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Looks more often than on a cluster, and restores the signal handlers of this process."""
    for module in (head_node, worker_node, rendezvous):
        monkeypatch.setattr(module, "POLL_S", 0.01)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)
