"""`deeper bench faults`: disturbs runs in every way that is known to happen, and checks that nothing is wrong or lost.

Measured: whether the promises of `bench.suites.faults.registry` are kept, seconds until a run got further than before,
and steps that were trained twice. Every trial is a real `deeper run` of two ranks with Ray and MLflow.

Against: an undisturbed run of the same experiment, to which results have to be equal to the last bit.

Not shown: GPUs, several hosts, and shared file systems; the faults of a cluster are tested in `tests/slurm`.

The result of each trial is written as soon as it is known, to one file for each kind of fault. The same command
continues with the trials that are missing, on this machine or another: each trial is compared with a reference that the
same machine has trained.
"""

from __future__ import annotations

import math
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
from bench.suites.faults.kind import FaultKind, MissedMomentError
from bench.suites.faults.results import TrialStore, render
from bench.suites.faults.trials import Reference, carry_out, train_reference
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

    SIGINT and SIGTERM end the campaign after the trial that is going on. A second signal ends it at once.

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
    """Carries out trials one after the other, moment by moment, so that every kind has been tried early.

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
        present = {kind.name: {trial.moment for trial in self._store.read(kind.name)} for kind in kinds}
        waiting = [
            (kind, moment)
            for moment in spread(self._moments)
            for kind in kinds
            if not kind.missing() and (force or moment not in present[kind.name])
        ]
        if not waiting:
            return
        self._print(f"{len(waiting)} trials; training the undisturbed run first")
        scratch = Path(tempfile.mkdtemp(prefix="deeper-faults-"))
        try:
            reference = train_reference(scratch)
            start = time.monotonic()
            for index, (kind, moment) in enumerate(waiting):
                if reason := self._stop_reason():
                    self._print(f"stopped ({reason}); {len(waiting) - index} trials are left: the same command goes on")
                    return
                result = self._try_moment(kind, moment, reference, scratch)
                left_s = (time.monotonic() - start) / (index + 1) * (len(waiting) - index - 1)
                self._print(
                    f"[{index + 1} of {len(waiting)}, {left_s / 60:.0f} min left] {kind.name} {moment}: {result}"
                )
        finally:
            if broken := [path.name for kind, _ in waiting for path in scratch.glob(f"{kind.name}-*")]:
                self._print(f"records and output of {', '.join(broken)}: {scratch}")
            else:
                shutil.rmtree(scratch, ignore_errors=True)

    def _try_moment(self, kind: FaultKind, moment: int, reference: Reference, scratch: Path) -> str:
        for attempt in range(TRIES):
            share = (moment - 0.5) / self._moments * EARLIER**attempt
            try:
                result = carry_out(kind, moment, share, reference, scratch)
            except MissedMomentError as error:
                why = str(error)
                continue
            self._store.add(kind.name, result)
            return "kept" if result.kept else f"BROKEN: {'; '.join(result.broken)}"
        return f"missed: {why}"

    def _print(self, line: str) -> None:
        self._console.print(line, highlight=False, markup=False, soft_wrap=True)


def spread(moments: int) -> list[int]:
    """Return the numbers from 1 to `moments` in an order in which early ones are far apart."""
    step = next(step for step in range(max(1, round(moments * 0.618)), 0, -1) if math.gcd(step, moments) == 1)
    return [1 + (moments // 2 + index * step) % moments for index in range(moments)]
