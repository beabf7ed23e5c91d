"""`deeper bench faults`: disturbs runs in every way that is known to happen, and checks that nothing is wrong or lost.

Measured: whether the promises of `bench.suites.faults.registry` are kept, seconds until a run got further than before,
and steps that were trained twice. Every trial is a run of two ranks within a real `deeper run` with Ray and MLflow. The
runs of one kind of fault follow each other in one command, or in one after the other where the fault ends it.

Against: the same runs, undisturbed, to which results have to be equal to the last bit.

Not shown: GPUs, several hosts, and shared file systems; the faults of a cluster are tested in `tests/slurm`.

The results of a kind are written to a file once its trials are done. The same command continues with the trials that
are missing, on this machine or another: each trial is compared with a reference that the same machine has trained.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field
from rich.console import Console

from bench.console.exit_codes import DONE, FAILED, INTERRUPTED
from bench.machine.revision import ROOT
from bench.orchestration.interruption import Interruption
from bench.results.store import to_json, with_provenance
from bench.suites.faults.kind import FaultKind
from bench.suites.faults.results import TrialStore, render
from bench.suites.faults.trials import Reference, carry_out, train_references
from reproduce.errors import UserError
from reproduce.spec import Config

MOMENTS = 20
QUICK_MOMENTS = 1
TRIES = 3  # of a moment at which there was nothing to disturb
EARLIER = 0.85
"""By how much a moment is moved towards the start for another try."""
COMMITTED = ROOT / "results" / "faults"


class FaultOptions(Config):
    """Options of `deeper bench faults`: which faults come, how often, and where the results go."""

    moments: int = Field(MOMENTS, ge=1)
    """Moments at which each fault comes, each in a run of its own."""
    kinds: tuple[str, ...] = ()
    """Names of the kinds of fault. An empty tuple takes all."""
    output: Path | None = None
    """Folder of the results. None means `results/faults`."""
    force: bool = False
    """Whether to repeat trials that have results already."""
    json_output: bool = False
    """Whether to print the results as JSON instead of Markdown."""


def main(options: FaultOptions, kinds: Sequence[FaultKind]) -> int:
    """Carry out the trials that are missing, and print all results to standard output.

    SIGINT and SIGTERM end the campaign after the trial that is going on, whose result is kept. A second signal ends it
    at once.

    Args:
        options: Which faults come, how often, and where the results go.
        kinds: All kinds of faults.

    Returns:
        The exit code: 1 if a promise was broken (`FAILED`), otherwise 75 if trials are missing (`INTERRUPTED`),
        otherwise 0 (`DONE`).

    Raises:
        UserError: `options.kinds` has a name that no kind has, or the folder holds files that are no results.
    """
    chosen = _chosen(options, kinds)
    store = TrialStore(options.output or COMMITTED)
    console = Console(stderr=True)
    with Interruption() as interruption:
        campaign = Campaign(store, console, options.moments, stop_reason=lambda: interruption.reason)
        campaign.run(chosen, force=options.force)
    everything = [(kind, store.read(kind.name), kind.missing()) for kind in kinds]
    if any(trials for _, trials, _ in everything):
        store.write_summary(render(everything))
    results = {kind.name: trials for kind, trials, _ in everything if kind in chosen}
    if options.json_output:
        content: dict[str, Any] = {name: [trial.model_dump() for trial in trials] for name, trials in results.items()}
        print(to_json(with_provenance("faults", {"results": content})))
    else:
        print(render([(kind, results[kind.name], kind.missing()) for kind in chosen]))
    if not all(trial.kept for trials in results.values() for trial in trials):
        return FAILED
    complete = all(kind.missing() or len(results[kind.name]) >= options.moments for kind in chosen)
    return DONE if complete else INTERRUPTED


def _chosen(options: FaultOptions, kinds: Sequence[FaultKind]) -> list[FaultKind]:
    names = [kind.name for kind in kinds]
    for name in options.kinds:
        if name not in names:
            raise UserError(f"--kind: {name!r} is none of {', '.join(names)}")
    return [kind for kind in kinds if not options.kinds or kind.name in options.kinds]


class Campaign:
    """Carries out trials, kind by kind.

    Args:
        store: Where results are read and written.
        console: Where progress is shown.
        moments: The number of moments of each kind.
        stop_reason: Called between two trials. It returns why the user wants to stop, or None to continue.
    """

    def __init__(
        self, store: TrialStore, console: Console, moments: int, stop_reason: Callable[[], str | None] = lambda: None
    ) -> None:
        self._store, self._console, self._moments, self._stop_reason = store, console, moments, stop_reason

    def run(self, kinds: Sequence[FaultKind], *, force: bool = False) -> None:
        """Carry out all trials that have no result yet, or all if `force` is set, until the user stops."""
        for kind in kinds:
            if why := kind.missing():
                self._print(f"{kind.name}: left out: {why}")
        waiting = {kind: self._missing(kind, force) for kind in kinds if not kind.missing()}
        waiting = {kind: moments for kind, moments in waiting.items() if moments}
        if not waiting:
            return
        count = sum(map(len, waiting.values()))
        moments = sorted(set().union(*waiting.values()))
        self._print(f"{count} trials; training {len(moments)} undisturbed runs first")
        scratch = Path(tempfile.mkdtemp(prefix="deeper-faults-"))
        try:
            reference = train_references(moments, scratch)
            progress = Progress(count, self._print)
            for kind, missing in waiting.items():
                self._carry_out(kind, missing, reference, scratch, progress)
            if reason := self._stop_reason():
                left = sum(len(self._missing(kind, force=False)) for kind in waiting)
                self._print(f"stopped ({reason}); {left} trials are left: the same command goes on")
        finally:
            if broken := [kind.name for kind in waiting if (scratch / kind.name).exists()]:
                self._print(f"records and output of {', '.join(broken)}: {scratch}")
            else:
                shutil.rmtree(scratch, ignore_errors=True)

    def _missing(self, kind: FaultKind, force: bool) -> list[int]:
        present = set() if force else {trial.moment for trial in self._store.read(kind.name)}
        return [moment for moment in range(1, self._moments + 1) if moment not in present]

    def _carry_out(
        self, kind: FaultKind, missing: Sequence[int], reference: Reference, scratch: Path, progress: Progress
    ) -> None:
        """Carry out the trials of a kind. Moments that were missed are tried again, somewhat earlier."""
        for attempt in range(TRIES):
            if not missing or self._stop_reason():
                return
            shares = {moment: (moment - 0.5) / self._moments * EARLIER**attempt for moment in missing}
            results = carry_out(
                kind,
                shares,
                reference,
                scratch,
                note=lambda line: progress.note(f"{kind.name}, {line}"),
                stop=self._stop_reason,
            )
            for result in results:
                self._store.add(kind.name, result)
                if not result.kept:
                    self._print(f"{kind.name}, moment {result.moment}: BROKEN: {'; '.join(result.broken)}")
            done = {result.moment for result in results}
            missing = [moment for moment in missing if moment not in done]

    def _print(self, line: str) -> None:
        self._console.print(line, highlight=False, markup=False, soft_wrap=True)


class Progress:
    """Shows what becomes of trials, with an estimate of the time that the others take.

    Args:
        count: The number of trials.
        show: Shows a line.
    """

    def __init__(self, count: int, show: Callable[[str], None]) -> None:
        self._count, self._show, self._start, self._noted = count, show, time.monotonic(), 0

    def note(self, line: str) -> None:
        """Show a line about a trial that has just ended."""
        self._noted += 1
        left_s = (time.monotonic() - self._start) / self._noted * max(0, self._count - self._noted)
        self._show(f"[{self._noted} of {self._count}, {left_s / 60:.0f} min left] {line}")
