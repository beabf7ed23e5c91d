"""Carries out series of trials: undisturbed runs as references, then the same runs, each disturbed by a fault."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
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
from bench.suites.faults.kind import POLL_S, FaultKind, MissedMomentError, Series, Span, Trial, TrialResult
from bench.suites.faults.processes import left_after_end
from bench.suites.harness.errors import BenchmarkError
from reproduce import schema

PATIENCE_S = 300.0
"""Seconds within which a run has to finish and a command has to end, disturbed or not."""
RESTARTS = 3
"""The most commands that may be needed to finish a run after a fault."""


@dataclass(frozen=True)
class Reference:
    """The undisturbed runs."""

    data: Path
    """The folder of the prepared data, which the disturbed runs use as well."""
    runs: Mapping[int, Path]
    """Their record folders, by seed, which is the number of a moment."""
    run_s: float
    """Median seconds from the first event of a run to its last."""


@dataclass(frozen=True)
class Due:
    """When a fault comes: so many seconds after the start of the run, or once the run has done so many steps."""

    seconds: float | None = None
    steps: int | None = None

    @classmethod
    def at(cls, share: float, span: Span, run_s: float) -> Due:
        """Return when a share of a span has gone by.

        Steps do not depend on how much else the machine does. The start and the end of a run have none.

        Args:
            share: The share, from 0 to 1.
            span: The span.
            run_s: Seconds that an undisturbed run takes.
        """
        if span == "run":
            return cls(seconds=share * run_s)
        first = STEPS if span == "checkpoints" else 0
        return cls(steps=first + int(share * (EPOCHS * STEPS - first)))

    def wait(self, trial: Trial, began: float) -> None:
        """Wait until the fault is due in a run that began at the time `began` of the monotonic clock.

        Raises:
            MissedMomentError: The run finished or the command ended before.
        """

        def is_due() -> bool:
            if self.seconds is not None:
                return time.monotonic() - began >= self.seconds
            return trial.position() >= (self.steps or 0)

        trial.wait_for(lambda: is_due() or None)


@dataclass(frozen=True)
class Disturbed:
    """What was seen of a trial until its run had finished."""

    trial: Trial
    seconds: float
    position: int
    code: int | None
    commands: int
    recovery_s: float | None
    wasted_steps: int
    left: int
    broken: tuple[str, ...]
    duration_s: float
    load: float


def train_references(moments: Sequence[int], scratch: Path) -> Reference:
    """Prepare the data, and train the runs of these moments undisturbed.

    Raises:
        BenchmarkError: The runs did not finish.
    """
    prepare_data(scratch / "data")
    job = FaultJob("faults-reference", scratch / "reference", scratch / "data", tuple(moments))
    job.folder.mkdir()
    if job.start_run().wait() != DONE:
        raise BenchmarkError(f"the undisturbed runs did not finish: {job.last_line()}; see {job.printed}")
    runs = {entry.seed: run_folder(job.records, entry.key) for entry in read_plan(job.records, job.name)}
    times = [[event["t"] for event in read_events(run)] for run in runs.values()]
    return Reference(job.data, runs, median(last - first for first, *_, last in times))


def carry_out(
    kind: FaultKind,
    shares: Mapping[int, float],
    reference: Reference,
    scratch: Path,
    *,
    note: Callable[[str], None],
    stop: Callable[[], object],
) -> list[TrialResult]:
    """Carry out a series of trials, in a folder of its own, which is deleted if every promise was kept.

    Args:
        kind: The kind of fault.
        shares: The share of the kind's span after which the fault comes, from 0 to 1, by the number of the moment.
        reference: The undisturbed runs of these moments.
        scratch: The folder in which the series gets its folder.
        note: Receives what became of each trial, as soon as its run has finished.
        stop: Called before each trial. If it returns something that is true, the series ends without the others.

    Returns:
        The results. A trial is left out if there was nothing to disturb.
    """
    folder = scratch / kind.name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    series = Series(FaultJob(f"faults-{kind.name}", folder, reference.data, tuple(shares)))
    disturbed: list[Disturbed] = []
    with kind.setup(series), _killing_what_is_left(series):
        for moment, share in shares.items():
            if stop():
                break
            trial = Trial(series, reference.runs[moment].name, moment)
            try:
                disturbed.append(_disturb(kind, trial, Due.at(share, kind.span, reference.run_s)))
                note(f"moment {moment}: its run has finished")
            except MissedMomentError as error:
                note(f"moment {moment}: missed: {error}")
        amiss = _end(series, [found.trial.moment for found in disturbed])
        results = [_judge(found, kind, reference, amiss) for found in disturbed]
    if all(result.kept for result in results):
        shutil.rmtree(folder, ignore_errors=True)
    return results


def _disturb(kind: FaultKind, trial: Trial, due: Due) -> Disturbed:
    """Disturb a run, and wait until it has finished. A command that ends is started again."""
    start, series = time.monotonic(), trial.series
    code: int | None = DONE
    broken: list[str] = []
    commands, left = 0, 0
    with PositionWatch(trial) as watch:
        _await_begin(trial)
        began = time.monotonic()
        due.wait(trial, began)
        started, position = series.processes(), trial.position()
        kind.inject(trial)
        seconds = time.monotonic() - began
        watch.fault(position)
        started += [process for process in series.processes() if process not in started]
        while True:
            if not series.wait(lambda: trial.status == schema.FINISHED, timeout_s=PATIENCE_S):
                broken.append(f"the run was not finished, and the command had not ended, within {PATIENCE_S:.0f} s")
                _kill(series)
            if not series.is_running:
                watch.pause()
                assert series.driver is not None
                if commands == 0:
                    code = None if broken else series.driver.returncode
                    if code is not None and code not in kind.codes:
                        broken.append(f"the command ended with exit code {code}: {trial.job.last_line()}")
                    left = len(left_after_end(started))
                    broken += [f"{left} processes of the command still live"] if left else []
            if commands == 0:
                try:
                    kind.heal(trial)
                except AssertionError as error:
                    broken.append(str(error))
            if trial.status == schema.FINISHED:
                break
            if commands == RESTARTS:
                broken.append(f"not finished by {RESTARTS} more commands: {trial.job.last_line()}")
                break
            commands += 1
            watch.go_on()
            series.start()
    return Disturbed(
        trial=trial,
        seconds=seconds,
        position=position,
        code=code,
        commands=commands,
        recovery_s=watch.recovery_s,
        wasted_steps=watch.wasted_steps,
        left=left,
        broken=tuple(broken),
        duration_s=time.monotonic() - start,
        load=os.getloadavg()[0],
    )


def _await_begin(trial: Trial) -> None:
    """Wait until the run begins. A command that ends before, since the fault of an earlier run ends it, is replaced.

    Raises:
        BenchmarkError: The run did not begin.
    """
    for _ in range(1 + RESTARTS):
        if not trial.series.is_running:
            trial.series.start()
        if not trial.series.wait(lambda: trial.status != "waiting", timeout_s=PATIENCE_S):
            break
        if trial.status != "waiting":
            return
    job = trial.job
    raise BenchmarkError(f"the run of moment {trial.moment} did not begin: {job.last_line()}; see {job.printed}")


def _end(series: Series, moments: Sequence[int]) -> str | None:
    """Let the command end so that all runs of these moments are published; return what is amiss, or None.

    A command that has later runs to train is told to stop, and one that was disturbed itself is started again.
    """
    if not moments:
        return None
    if tuple(moments) != series.job.seeds:
        series.stop(timeout_s=PATIENCE_S)
        series.job = replace(series.job, seeds=tuple(moments))
    for _ in range(1 + RESTARTS):
        if not series.wait(timeout_s=PATIENCE_S):
            _kill(series)
        assert series.driver is not None
        if series.driver.poll() == DONE and series.unpublished() == 0:
            return None
        series.start()
    return f"the last command did not publish everything: {series.job.last_line()}"


def _judge(found: Disturbed, kind: FaultKind, reference: Reference, amiss: str | None) -> TrialResult:
    """Compare a disturbed run with the undisturbed one and with what the tracking store holds."""
    trial = found.trial
    broken = [*found.broken, *([amiss] if amiss else [])]
    lost, twice, difference = 0, 0, "it is not finished"
    if trial.status == schema.FINISHED:
        difference = first_difference(trial.run, reference.runs[trial.moment]) or ""
        lost, twice = compare_with_store(trial.run, trial.series.tracking_store, trial.key)
    broken += [f"the result differs: {difference}"] if difference else []
    broken += [f"{lost} values of metrics are lost"] if lost else []
    broken += [f"{twice} values of metrics are there twice"] if twice else []
    if found.wasted_steps > kind.wasted_steps:
        broken.append(f"{found.wasted_steps} steps were trained twice, and at most {kind.wasted_steps} may be")
    return TrialResult(
        moment=trial.moment,
        seconds=round(found.seconds, 2),
        position=found.position,
        code=found.code,
        commands=found.commands,
        recovery_s=None if found.recovery_s is None else round(found.recovery_s, 2),
        wasted_steps=found.wasted_steps,
        bit_equal=not difference,
        metrics_lost=lost,
        metrics_twice=twice,
        processes_left=found.left,
        broken=tuple(broken),
        duration_s=round(found.duration_s, 1),
        load=round(found.load, 1),
        machine=this_machine_kind(),
        commit=revision().get("commit"),
        date=time.strftime("%Y-%m-%d"),
    )


def _kill(series: Series) -> None:
    """Kill the process group of the command, if it has not ended."""
    if series.driver is not None and series.driver.poll() is None:
        os.killpg(series.driver.pid, signal.SIGKILL)
        series.driver.wait()


@contextlib.contextmanager
def _killing_what_is_left(series: Series) -> Iterator[None]:
    """Kill every process that names the folder of the series, at the end of the block."""
    try:
        yield
    finally:
        _kill(series)
        for process in psutil.process_iter(["cmdline"]):
            if any(str(series.job.folder) in word for word in process.info["cmdline"] or ()):
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
