"""Defines a kind of fault, the series of trials in which it happens, and the result of a trial.

The module does not import torch.
"""

from __future__ import annotations

import contextlib
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeVar

import psutil

from bench.console.exit_codes import DONE
from bench.records.states import Status, read_state, run_folder
from bench.suites.faults.job import STEPS, FaultJob
from bench.suites.harness.errors import BenchmarkError
from bench.tracking.location import embedded_uri
from bench.tracking.mlflow_setup import URI
from bench.tracking.reader import pending
from reproduce import schema
from reproduce.spec import Config

T = TypeVar("T")
Span = Literal["run", "steps", "checkpoints"]
"""What the moments of a kind are spread over: the seconds of a run from its first event on, its steps, or its steps
after the first checkpoint."""
POLL_S = 0.2


class MissedMomentError(BenchmarkError):
    """Raised if there was nothing to disturb any more, for instance because the run had finished."""


@dataclass
class Series:
    """Runs that are trained one after the other by `deeper run`, and disturbed at a moment of their own each.

    It is passed to the set-up of a `FaultKind`, which may change it before the first command starts.
    """

    job: FaultJob
    environment: dict[str, str] = field(default_factory=dict)
    """Environment variables of the commands."""
    options: list[str] = field(default_factory=list)
    """Options of the commands."""
    store: Path | None = None
    """The SQLite file of the tracking store; None for the one beside the records."""
    driver: subprocess.Popen[bytes] | None = None
    """The command that trains the runs, once one has started."""

    @property
    def tracking_store(self) -> Path:
        """The SQLite file of the tracking store."""
        return self.store or self.job.records / "mlflow.db"

    @property
    def is_running(self) -> bool:
        """Whether a command runs."""
        return self.driver is not None and self.driver.poll() is None

    def start(self) -> None:
        """Start the command, which trains the runs that are left. Does not wait."""
        self.driver = self.job.start_run(self.options, self.environment)

    def stop(self, *, timeout_s: float) -> None:
        """Tell the command to stop, if one runs, and wait for its end, but not longer than `timeout_s` seconds."""
        if self.is_running:
            assert self.driver is not None
            self.driver.send_signal(signal.SIGTERM)
            self.wait(timeout_s=timeout_s)

    def unpublished(self) -> int:
        """The number of runs that the tracking store does not hold wholly."""
        return pending(self.job.records, self.environment.get(URI) or embedded_uri(self.job.records))

    def processes(self) -> list[psutil.Process]:
        """The living processes that the command has started, directly or not."""
        assert self.driver is not None
        with contextlib.suppress(psutil.NoSuchProcess):
            return psutil.Process(self.driver.pid).children(recursive=True)
        return []

    def wait(self, until: Callable[[], bool] = lambda: False, *, timeout_s: float) -> bool:
        """Wait until the command has ended or `until` returns True. Return False if neither happened in time."""
        deadline = time.monotonic() + timeout_s
        while self.is_running and not until():
            if time.monotonic() > deadline:
                return False
            time.sleep(POLL_S)
        return True


@dataclass(frozen=True)
class Trial:
    """One run of a series. It is passed to the functions of a `FaultKind` that disturb it and heal the fault."""

    series: Series
    key: str
    """The key of the run."""
    moment: int
    """The number of the moment, from 1. It is also the seed of the run."""

    @property
    def job(self) -> FaultJob:
        """The commands of the series, and its folder."""
        return self.series.job

    @property
    def run(self) -> Path:
        """The record folder of the run."""
        return run_folder(self.job.records, self.key)

    @property
    def status(self) -> Status:
        """The status of the run."""
        return read_state(self.run).status

    def position(self) -> int:
        """The number of steps that the run has done, over all its epochs, as its files show it."""
        state = read_state(self.run)
        done = state.epochs_done * STEPS
        if state.progress is not None:
            done = max(done, int(state.progress["epoch"]) * STEPS + int(state.progress["step"]))
        return done

    def wait_for(self, find: Callable[[], T | None]) -> T:
        """Wait until `find` returns something, and return that.

        Raises:
            MissedMomentError: The run finished or the command ended before.
        """
        while (found := find()) is None:
            if not self.series.is_running or self.status == schema.FINISHED:
                raise MissedMomentError("the run ended before there was anything to disturb")
            time.sleep(POLL_S)
        return found


def _do_nothing(trial: Trial) -> None:
    pass


@dataclass(frozen=True, kw_only=True)
class FaultKind:
    """A kind of fault, how it is brought about, and what is promised for it.

    For every kind it is promised as well that the run finishes with the result of the same run undisturbed, equal to
    the last bit, and that the tracking store then holds each metric exactly once.
    """

    name: str
    promise: str
    """What is promised, as a sentence for the report."""
    inject: Callable[[Trial], None]
    """Brings the fault about. It may wait for a target by `Trial.wait_for`."""
    span: Span = "run"
    setup: Callable[[Series], AbstractContextManager[object]] = lambda series: contextlib.nullcontext()
    """Surrounds a series: prepares what the fault needs, and removes it at the end."""
    heal: Callable[[Trial], None] = _do_nothing
    """Does what an operator would do: once the command has ended, before it is started again, or, if the command goes
    on, once the disturbed run has finished."""
    missing: Callable[[], str | None] = lambda: None
    """Returns why this machine cannot bring the fault about, or None if it can."""
    codes: tuple[int, ...] = (DONE,)
    """The exit codes with which the disturbed command may end; a negative one is the signal that ended it."""
    wasted_steps: int
    """The most steps that may be trained twice."""


class TrialResult(Config):
    """What happened in one trial."""

    moment: int
    """The number of the moment, from 1."""
    seconds: float
    """When the fault came, in seconds since the run began."""
    position: int
    """Steps that the run had done then, over all its epochs."""
    code: int | None
    """The exit code of the disturbed command, also where it went on to later runs; None if it had to be killed."""
    commands: int
    """How often `deeper run` had to be started again until the run was finished."""
    recovery_s: float | None
    """Seconds from the fault until the attempt that finished the run got further than the ones before, without the time
    until someone starts it again. None if the run was finished already."""
    wasted_steps: int
    """Steps that were trained twice."""
    bit_equal: bool
    """Whether curves, weights and predictions are those of the undisturbed run, to the last bit."""
    metrics_lost: int
    """Values of metrics that the tracking store lacks in the end."""
    metrics_twice: int
    """Values of metrics that the tracking store holds more than once."""
    processes_left: int
    """Processes of the command that still lived ten seconds after its end, without idle helpers of Ray."""
    broken: tuple[str, ...] = ()
    """The promises that were not kept, in words. Empty if all were."""
    duration_s: float
    """Seconds from the end of the trial before to the end of this one."""
    load: float
    """Load average of the machine over the last minute of the trial, its own processes included."""
    machine: str
    """The kind of machine, as `bench.results.store.this_machine_kind` names it."""
    commit: str | None
    """The commit of the code; None if it comes from no checkout."""
    date: str
    """The local date, as YYYY-MM-DD."""

    @property
    def kept(self) -> bool:
        """Whether every promise was kept."""
        return not self.broken
