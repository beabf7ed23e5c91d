"""Faults of processes: signals to the driver, the ranks, Ray and the publisher, and too little memory."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import psutil

from bench.suites.faults.kind import Series, Trial

MEMORY_CGROUPS = Path("/sys/fs/cgroup/memory")
"""Where Linux mounts the memory controller of control groups version 1."""
UNIFIED_CGROUPS = Path("/sys/fs/cgroup")
"""Where Linux mounts control groups version 2."""
MEMORY_LIMIT_BYTES = 2**20
SUSPENDED_S = 5.0
STEP_PATIENCE_S = 15
PUBLISHER = "bench.tracking.publisher"
RANK = "ray::Worker"
ENDING_S = 180.0
LEFT_S = 10.0
"""Seconds within which all processes of a command have to be gone after its end."""
AGENTS = ("ray::DashboardAgent", "ray::RuntimeEnvAgent")


def signal_driver(number: signal.Signals, trial: Trial) -> None:
    """Send a signal to the driver alone."""
    assert trial.series.driver is not None
    trial.series.driver.send_signal(number)


def signal_group(number: signal.Signals, trial: Trial) -> None:
    """Send a signal to the process group of the driver, as Ctrl-C and `timeout` do."""
    assert trial.series.driver is not None
    with contextlib.suppress(ProcessLookupError):
        os.killpg(trial.series.driver.pid, number)


def signal_rank(number: signal.Signals, trial: Trial) -> None:
    """Send a signal to one of the two ranks, in turn."""

    def both() -> list[psutil.Process] | None:
        ranks = sorted(_named(trial, RANK), key=lambda process: process.pid)
        return ranks if len(ranks) == 2 else None

    trial.wait_for(both)[trial.moment % 2].send_signal(number)


def signal_named(number: signal.Signals, name: str, trial: Trial) -> None:
    """Send a signal to a process that the driver started, whose command line contains `name`."""
    _first(trial, name).send_signal(number)


def end_command(trial: Trial) -> None:
    """Tell the command to stop, and wait until it has ended. Does nothing if it has ended already."""
    trial.series.stop(timeout_s=ENDING_S)


def suspend(trial: Trial) -> None:
    """Stop the driver and all its processes for a while, as a laptop that sleeps does."""
    assert trial.series.driver is not None
    processes = [psutil.Process(trial.series.driver.pid), *trial.series.processes()]
    for number, wait_s in ((signal.SIGSTOP, SUSPENDED_S), (signal.SIGCONT, 0.0)):
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(number)
        time.sleep(wait_s)


@contextlib.contextmanager
def short_patience(series: Series) -> Iterator[None]:
    """Let the command take a run for hanging after `STEP_PATIENCE_S` without a step."""
    series.options += ["--step-patience-s", str(STEP_PATIENCE_S)]
    yield


def exhaust_memory(trial: Trial) -> None:
    """Move a rank into a control group whose limit any further memory exceeds, so that the kernel kills the rank."""
    rank = trial.wait_for(lambda: next(iter(_named(trial, RANK)), None))
    (_memory_group(trial.series) / "cgroup.procs").write_text(str(rank.pid), encoding="utf-8")


@contextlib.contextmanager
def small_memory_group(series: Series) -> Iterator[None]:
    """Provide a control group with a memory limit of `MEMORY_LIMIT_BYTES`."""
    group = _memory_group(series)
    group.mkdir()
    limit = "memory.limit_in_bytes" if group.parent == MEMORY_CGROUPS else "memory.max"
    (group / limit).write_text(str(MEMORY_LIMIT_BYTES), encoding="utf-8")
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            group.rmdir()


def left_after_end(started: Iterable[psutil.Process]) -> list[psutil.Process]:
    """Wait until the processes of a command that has ended are gone, and return those that live after `LEFT_S`."""
    left: list[psutil.Process] = psutil.wait_procs([one for one in started if not is_agent(one)], timeout=LEFT_S)[1]
    return left


def is_agent(process: psutil.Process) -> bool:
    """Whether a process is an idle helper of Ray, which tries for a minute to report to a dead cluster."""
    try:
        return process.name() in AGENTS
    except psutil.NoSuchProcess:
        return False


def no_memory_groups() -> str | None:
    """Return why this process cannot make a memory control group, or None if it can."""
    root = _memory_root()
    if root is None:
        return "there is no memory controller of control groups"
    return None if os.access(root, os.W_OK) else f"{root} is not writable; it takes root"


def _memory_root() -> Path | None:
    if (MEMORY_CGROUPS / "cgroup.procs").exists():
        return MEMORY_CGROUPS
    controllers = UNIFIED_CGROUPS / "cgroup.subtree_control"
    with contextlib.suppress(OSError):
        if "memory" in controllers.read_text(encoding="utf-8").split():
            return UNIFIED_CGROUPS
    return None


def _memory_group(series: Series) -> Path:
    root = _memory_root()
    assert root is not None, "FaultKind.missing was not asked"
    return root / f"deeper-{series.job.name}-{os.getpid()}"


def _first(trial: Trial, name: str) -> psutil.Process:
    return trial.wait_for(lambda: next(iter(_named(trial, name)), None))


def _named(trial: Trial, name: str) -> list[psutil.Process]:
    found = []
    for process in trial.series.processes():
        with contextlib.suppress(psutil.Error):
            if name in " ".join(process.cmdline()):
                found.append(process)
    return found
