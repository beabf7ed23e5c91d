"""Stores the results of trials on disk, one JSON file for each kind of fault, and renders them as Markdown."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from bench.results.store import with_provenance, write_result
from bench.suites.faults.kind import FaultKind, TrialResult
from reproduce.errors import UserError
from reproduce.files.atomic import write_atomically
from reproduce.spec import validated

COLUMNS = (
    "fault",
    "promise",
    "trials",
    "kept",
    "bit-equal",
    "metrics lost",
    "metrics twice",
    "recovery: median, max (s)",
    "steps twice: max",
    "load: median",
    "machines",
)

SUMMARY = """# Disturbed runs

`deeper bench faults` wrote this page. Each trial is a run of two ranks on generated images that one fault disturbs, at
a moment of its own; the files beside this page hold every trial with its commit and date, and the machine. The runs of
one kind follow each other in one `deeper run`, or in one after the other where the fault ends it. For every kind it is
promised as well that the run finishes with the result of the same run undisturbed, equal to the last bit, and that the
tracking store then holds each metric once. Load is the machine's load average at the end of a trial, its own processes
included: where it is far above the number of cores, other work ran beside the trial and slowed it down."""


class TrialStore:
    """Reads and writes the results of trials.

    Args:
        folder: The folder of the results. It is created when the first result is written.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def read(self, kind: str) -> list[TrialResult]:
        """Read the results of a kind of fault, ordered by moment. Empty if there are none.

        Raises:
            UserError: The file holds no such results.
        """
        path = self._path(kind)
        if not path.is_file():
            return []
        try:
            trials = json.loads(path.read_text(encoding="utf-8"))["trials"]
        except (ValueError, KeyError, TypeError):
            raise UserError(f"--output: {path} holds no results of `deeper bench faults`; move it away") from None
        return [validated(TrialResult, trial, where=f"{path}: ") for trial in trials]

    def add(self, kind: str, result: TrialResult) -> None:
        """Write the result of a trial, which replaces an earlier one of the same moment."""
        others = [trial for trial in self.read(kind) if trial.moment != result.moment]
        trials = sorted([*others, result], key=lambda trial: trial.moment)
        content = {"kind": kind, "trials": [trial.model_dump(mode="json") for trial in trials]}
        write_result(self._path(kind), with_provenance("faults", content))

    def write_summary(self, text: str) -> None:
        """Write the results of all kinds, rendered as Markdown, to `README.md` beside them."""
        write_atomically(self._folder / "README.md", f"{SUMMARY}\n\n{text}\n".encode())

    def _path(self, kind: str) -> Path:
        return self._folder / f"{kind}.json"


def render(results: Sequence[tuple[FaultKind, Sequence[TrialResult], str | None]]) -> str:
    """Render results as a table with one row for each kind of fault, followed by every broken promise.

    Args:
        results: Each kind with its trials, and why this machine cannot bring it about (None if it can).
    """
    rows = [_row(kind, trials) for kind, trials, _ in results if trials]
    lines = (
        [_line(COLUMNS), _line(["---"] * len(COLUMNS)), *map(_line, rows)] if rows else ["No trial has a result yet."]
    )
    broken = [
        f"- {kind.name}, moment {trial.moment}: {'; '.join(trial.broken)}"
        for kind, trials, _ in results
        for trial in trials
        if not trial.kept
    ]
    left_out = [f"- {kind.name}: {why}" for kind, trials, why in results if why and not trials]
    blocks = ["\n".join(lines)]
    blocks += ["Broken promises:\n\n" + "\n".join(broken)] if broken else []
    blocks += ["Left out on this machine:\n\n" + "\n".join(left_out)] if left_out else []
    return "\n\n".join(blocks)


def _row(kind: FaultKind, trials: Sequence[TrialResult]) -> list[str]:
    machines = Counter(trial.machine for trial in trials)
    recoveries = [trial.recovery_s for trial in trials if trial.recovery_s is not None]
    return [
        kind.name,
        kind.promise,
        str(len(trials)),
        str(sum(trial.kept for trial in trials)),
        str(sum(trial.bit_equal for trial in trials)),
        str(sum(trial.metrics_lost for trial in trials)),
        str(sum(trial.metrics_twice for trial in trials)),
        f"{median(recoveries):.1f}, {max(recoveries):.1f}" if recoveries else "—",
        str(max(trial.wasted_steps for trial in trials)),
        f"{median(trial.load for trial in trials):.1f}",
        ", ".join(f"{name} ({count})" for name, count in sorted(machines.items())),
    ]


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"
