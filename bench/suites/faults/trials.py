"""Carries out single trials: an undisturbed run as the reference, then runs that a fault disturbs."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from types import TracebackType

import psutil

from bench.console.exit_codes import DONE
from bench.machine.revision import revision
from bench.records.plan import read_plan
from bench.records.states import read_events, read_state, run_folder
from bench.results.store import this_machine_kind
from bench.suites.faults.comparison import compare_with_store, first_difference
from bench.suites.faults.job import EPOCHS, STEPS, FaultJob, prepare_data
from bench.suites.faults.kind import POLL_S, FaultKind, MissedMomentError, Span, Trial, TrialResult
from bench.suites.faults.processes import left_after_end
from bench.suites.harness.errors import BenchmarkError
from reproduce import schema

PATIENCE_S = 300.0
"""Seconds within which a command has to end, disturbed or not."""
RESTARTS = 3
"""The most commands that may be needed to finish a run after a fault."""
REFERENCES = 2
"""Undisturbed runs, whose median times place the moments."""


@dataclass(frozen=True)
class Reference:
    """The undisturbed run."""

    run: Path
    """Its record folder."""
    key: str
    command_s: float
    """Seconds that the command takes."""


@dataclass(frozen=True)
class Due:
    """When a fault comes: so many seconds after the start of the command, or once the run has done so many steps."""

    seconds: float | None = None
    steps: int | None = None

    @classmethod
    def at(cls, share: float, span: Span, command_s: float) -> Due:
        """Return when a share of a span has gone by.

        Steps do not depend on how much else the machine does. The start and the end of a command have none.

        Args:
            share: The share, from 0 to 1.
            span: The span.
            command_s: Seconds that an undisturbed command takes.
        """
        if span == "command":
            return cls(seconds=share * command_s)
        first = STEPS if span == "checkpoints" else 0
        return cls(steps=first + int(share * (EPOCHS * STEPS - first)))

    def wait(self, trial: Trial) -> None:
        """Wait until the fault is due.

        Raises:
            MissedMomentError: The command ended before.
        """
        assert trial.driver is not None
        if self.seconds is None:
            trial.wait_for(lambda: True if trial.position() >= (self.steps or 0) else None)
            return
        with contextlib.suppress(subprocess.TimeoutExpired):
            trial.driver.wait(self.seconds)
            raise MissedMomentError("the command ended before the fault was due")


def train_reference(scratch: Path) -> Reference:
    """Prepare the data, and train undisturbed runs, of which the last one becomes the reference.

    Raises:
        BenchmarkError: A run did not finish.
    """
    data = scratch / "data"
    prepare_data(data)
    times: list[float] = []
    for number in range(1 + REFERENCES):  # the first one warms caches up
        job = FaultJob(f"faults-reference-{number}", scratch / f"reference-{number}", data)
        job.folder.mkdir()
        start = time.monotonic()
        if job.start_run().wait() != DONE:
            raise BenchmarkError(f"the undisturbed run did not finish: {job.last_line()}; see {job.printed}")
        times.append(time.monotonic() - start)
        (entry,) = read_plan(job.records, job.name)
    return Reference(run_folder(job.records, entry.key), entry.key, median(times[1:]))


def carry_out(kind: FaultKind, moment: int, share: float, reference: Reference, scratch: Path) -> TrialResult:
    """Carry out one trial, in a folder of its own, which is deleted if every promise was kept.

    Args:
        kind: The kind of fault.
        moment: The number of the moment, from 1.
        share: The share of the kind's span after which the fault comes, from 0 to 1.
        reference: The undisturbed run.
        scratch: The folder in which the trial gets its folder.

    Raises:
        MissedMomentError: There was nothing to disturb.
    """
    folder = scratch / f"{kind.name}-{moment}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    job = FaultJob(f"faults-{kind.name}-{moment}", folder, reference.run.parents[2].parent / "data")
    trial = Trial(job, reference.key, moment)
    start = time.monotonic()
    with kind.setup(trial):
        result = _disturb(kind, trial, reference, Due.at(share, kind.span, reference.command_s), start)
    if result.kept:
        shutil.rmtree(folder, ignore_errors=True)
    return result


def _disturb(kind: FaultKind, trial: Trial, reference: Reference, due: Due, start: float) -> TrialResult:
    broken: list[str] = []
    with PositionWatch(trial) as watch, _killing_what_is_left(trial):
        began = time.monotonic()
        trial.driver = trial.job.start_run(trial.options, trial.environment)
        due.wait(trial)
        started = [*trial.processes()]
        position = trial.position()
        kind.inject(trial)
        seconds = time.monotonic() - began
        watch.fault(position)
        started += [process for process in trial.processes() if process not in started]
        code = _wait(trial.driver)
        if code is None:
            broken.append(f"the command did not end within {PATIENCE_S:.0f} s")
        elif code not in kind.codes:
            broken.append(f"the command ended with exit code {code}: {trial.job.last_line()}")
        watch.pause()
        left = left_after_end(started)
        if left:
            broken.append(f"{len(left)} processes of the command still live")
        try:
            kind.heal(trial)
        except AssertionError as error:
            broken.append(str(error))
        commands = 0
        while commands < RESTARTS:
            commands += 1
            watch.go_on()
            trial.driver = trial.job.start_run(trial.options, trial.environment)
            if _wait(trial.driver) == DONE:
                break
            watch.pause()
        else:
            broken.append(f"not finished by {RESTARTS} more commands: {trial.job.last_line()}")
    lost, twice, difference = 0, 0, "it is not finished"
    if read_state(trial.run).status == schema.FINISHED:
        difference = first_difference(trial.run, reference.run) or ""
        lost, twice = compare_with_store(trial.run, trial.tracking_store, trial.key)
    broken += [f"the result differs: {difference}"] if difference else []
    broken += [f"{lost} values of metrics are lost"] if lost else []
    broken += [f"{twice} values of metrics are there twice"] if twice else []
    if watch.wasted_steps > kind.wasted_steps:
        broken.append(f"{watch.wasted_steps} steps were trained twice, and at most {kind.wasted_steps} may be")
    return TrialResult(
        moment=trial.moment,
        seconds=round(seconds, 2),
        position=position,
        code=code,
        commands=commands,
        recovery_s=None if watch.recovery_s is None else round(watch.recovery_s, 2),
        wasted_steps=watch.wasted_steps,
        bit_equal=not difference,
        metrics_lost=lost,
        metrics_twice=twice,
        processes_left=len(left),
        broken=tuple(broken),
        duration_s=round(time.monotonic() - start, 1),
        load=round(os.getloadavg()[0], 1),
        machine=this_machine_kind(),
        commit=revision().get("commit"),
        date=time.strftime("%Y-%m-%d"),
    )


def _wait(driver: subprocess.Popen[bytes]) -> int | None:
    """Wait for the end of a command, and kill its process group if it does not end in time."""
    try:
        return driver.wait(PATIENCE_S)
    except subprocess.TimeoutExpired:
        os.killpg(driver.pid, signal.SIGKILL)
        driver.wait()
        return None


@contextlib.contextmanager
def _killing_what_is_left(trial: Trial) -> Iterator[None]:
    """Kill every process that names the folder of the trial, at the end of the block."""
    try:
        yield
    finally:
        if trial.driver is not None and trial.driver.poll() is None:
            os.killpg(trial.driver.pid, signal.SIGKILL)
            trial.driver.wait()
        for process in psutil.process_iter(["cmdline"]):
            if any(str(trial.job.folder) in word for word in process.info["cmdline"] or ()):
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()


@dataclass
class PositionWatch:
    """Follows in a thread how far the run gets, for the length of a `with` block."""

    trial: Trial
    wasted_steps: int = 0
    """Steps that were trained twice so far."""
    recovery_s: float | None = None
    """Seconds from the fault until the last attempt got further than the ones before, without pauses. None if that has
    not happened."""
    furthest: int = 0
    """The most steps that any attempt has done, and one more once the run is finished."""
    _fault: int | None = None
    _running_s: float = 0.0
    _since: float | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _ended: threading.Event = field(default_factory=threading.Event)

    def fault(self, position: int) -> None:
        """Note that the fault has come, when the run had done `position` steps."""
        with self._lock:
            self._fault, self._since = position, time.monotonic()

    def pause(self) -> None:
        """Note that no command runs."""
        with self._lock:
            if self._since is not None:
                self._running_s += time.monotonic() - self._since
                self._since = None

    def go_on(self) -> None:
        """Note that a command runs again."""
        with self._lock:
            self._since = self._since or time.monotonic()

    def __enter__(self) -> PositionWatch:
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()

    def _follow(self) -> None:
        attempts = 0
        while True:
            ended = self._ended.is_set()
            starts = [event for event in read_events(self.trial.run) if event["kind"] == schema.START]
            with self._lock:
                for event in starts[attempts:]:
                    resume = event["resume"] or {"epoch": 0, "step": 0}
                    self.wasted_steps += max(0, self.furthest - (resume["epoch"] * STEPS + resume["step"]))
                    if self._fault is not None:  # what ranks finished after the fault was no recovery
                        self._fault, self.recovery_s = self.furthest, None
                attempts = len(starts)
                finished = read_state(self.trial.run).status == schema.FINISHED
                self.furthest = max(self.furthest, self.trial.position() + finished)
                self._note_recovery()
            if ended:
                return
            time.sleep(POLL_S)

    def _note_recovery(self) -> None:
        further = self._fault is not None and self.furthest > self._fault
        if further and self.recovery_s is None and self._since is not None:
            self.recovery_s = self._running_s + time.monotonic() - self._since
