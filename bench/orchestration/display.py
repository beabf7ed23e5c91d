"""What a person sees of a grid: the live table of `deeper run`, the same once for `deeper status`.

Reads the records only, so it shows a grid that another process or another host carries out just as well.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from bench.records.plan import PlanEntry
from bench.records.states import RunState, Status, read_state, run_folder
from reproduce import schema

STYLES: dict[Status, str] = {
    "finished": "green",
    "failed": "red",
    "running": "cyan",
    "interrupted": "yellow",
    "waiting": "dim",
}


@dataclass(frozen=True)
class Row:
    """A planned run and what its record says."""

    planned: PlanEntry
    state: RunState

    @property
    def seconds_left(self) -> float | None:
        """Of this run, from the pace of its finished epochs; None before the first."""
        pace = self.state.metrics.get(schema.EPOCH_SECONDS)
        if self.state.status in ("finished", "failed"):
            return 0.0
        if pace is None:
            return None
        left = self.planned.epochs - self.state.epochs_done
        progress = self.state.progress
        done = progress["step"] / progress["steps"] if progress and progress["epoch"] == self.state.epochs_done else 0.0
        return max(0.0, left - done) * pace


def rows(runs: Sequence[PlanEntry], records: Path) -> list[Row]:
    return [Row(run, read_state(run_folder(records, run.key))) for run in runs]


class Watch:
    """The rows of a grid, looked at again and again: files at most every so often, those of a finished run once."""

    def __init__(self, runs: Sequence[PlanEntry], records: Path, *, every_s: float = 1.0) -> None:
        self._runs, self._records, self._every_s = runs, records, every_s
        self._rows: dict[str, Row] = {}
        self._looked = -math.inf

    def rows(self, *, now: bool = False) -> list[Row]:
        """As last seen; `now`: as they are."""
        if now or time.monotonic() - self._looked >= self._every_s:
            self._looked = time.monotonic()
            known = {key for key, row in self._rows.items() if row.state.status == "finished"}
            self._rows |= {
                row.planned.key: row for row in rows([run for run in self._runs if run.key not in known], self._records)
            }
        return [self._rows[run.key] for run in self._runs]


def time_left(table: Sequence[Row], concurrency: int) -> float | None:
    """Seconds until all runs are done; a run without a pace of its own takes its arm's, else the mean."""
    known = [row.seconds_left for row in table]
    paces: dict[str, list[float]] = {}
    for row in table:
        if schema.EPOCH_SECONDS in row.state.metrics:
            paces.setdefault(row.planned.arm, []).append(row.state.metrics[schema.EPOCH_SECONDS])
    if not paces:
        return None
    means = {arm: sum(values) / len(values) for arm, values in paces.items()}
    overall = sum(means.values()) / len(means)
    total = 0.0
    for row, seconds in zip(table, known, strict=True):
        arm_pace = means.get(row.planned.arm, overall)
        total += seconds if seconds is not None else arm_pace * row.planned.epochs
    longest = max((seconds or 0.0 for seconds in known), default=0.0)
    return max(total / concurrency, longest)


def summary(table: Sequence[Row], concurrency: int) -> Text:
    counts = Counter(row.state.status for row in table)
    parts = [f"{counts[status]} {status}" for status in STYLES if counts[status]]
    left = time_left(table, concurrency)
    if left is not None and counts["finished"] + counts["failed"] < len(table):
        parts.append(f"about {duration(left)} left")
    return Text(f"{len(table)} runs: " + ", ".join(parts), style="bold")


def render(table: Sequence[Row], concurrency: int, height: int | None = None) -> Group:
    """The grid as a table; with a height, running and failed runs are shown first and the rest is counted."""
    order = ["running", "failed", "interrupted", "finished", "waiting"]
    shown = list(table)
    if height is not None and len(shown) > height:
        shown = sorted(shown, key=lambda row: order.index(row.state.status))[:height]
    view = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("run", "state", "epoch", "images/s", "loss", "top-1", "left"):
        view.add_column(title, justify="left" if title in ("run", "state") else "right", no_wrap=True)
    for row in shown:
        view.add_row(*_cells(row))
    errors = [
        Text(f"{row.planned.name}: {row.state.error}", style="red") for row in shown if row.state.status == "failed"
    ]
    untold = [
        Text(f"{row.planned.name}: GPU telemetry: {row.state.gpu_absent}", style="yellow")
        for row in shown
        if row.state.gpu_absent
    ]
    hidden = [Text(f"... and {len(table) - len(shown)} more", style="dim")] if len(shown) < len(table) else []
    return Group(summary(table, concurrency), view, *hidden, *errors, *untold)


def as_json(table: Sequence[Row]) -> list[dict[str, Any]]:
    """What a program may read of a grid."""
    return [
        {
            "run": row.planned.name,
            "key": row.planned.key,
            "arm": row.planned.arm,
            "seed": row.planned.seed,
            "state": row.state.status,
            "epochs_done": row.state.epochs_done,
            "epochs": row.planned.epochs,
            "metrics": row.state.metrics,
            "error": row.state.error,
            "reason": row.state.reason,
            "gpu_absent": row.state.gpu_absent,
            "seconds_left": row.seconds_left,
        }
        for row in table
    ]


class PlainProgress:
    """One line a change, for logs and pipes."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.last: dict[str, tuple[str, int]] = {}
        self.untold: set[str] = set()
        """Keys of runs whose GPU telemetry was said to lack something."""

    def update(self, table: Sequence[Row], concurrency: int) -> None:
        for row in table:
            now = (row.state.status, row.state.epochs_done)
            if self.last.get(row.planned.key, ("waiting", 0)) != now:
                name, status, epoch, *rest = (str(cell) for cell in _cells(row))
                speed, loss, top1, left = rest
                line = f"{time.strftime('%H:%M:%S')} {name}: {status}, epoch {epoch}"
                if row.state.metrics:
                    line += f", {speed} images/s, loss {loss}, top-1 {top1}, {left} left"
                if row.state.status == "failed":
                    line += f": {row.state.error}"
                self.console.print(line, highlight=False, soft_wrap=True)
            if row.state.gpu_absent and row.planned.key not in self.untold:
                self.untold.add(row.planned.key)
                text = f"{row.planned.name}: GPU telemetry: {row.state.gpu_absent}"
                self.console.print(text, highlight=False, soft_wrap=True, markup=False, style="yellow")
            self.last[row.planned.key] = now


def duration(seconds: float) -> str:
    """Seconds in the largest two units: 45 s, 3 min 20 s, 2 h 05 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def _cells(row: Row) -> tuple[Text | str, ...]:
    state, epochs = row.state, row.planned.epochs
    speed = state.metrics.get(schema.IMAGES_PER_S)
    loss = state.metrics.get(schema.TRAIN_LOSS)
    top1 = state.metrics.get(schema.VAL_TOP1)
    epoch = f"{state.epochs_done}/{epochs}"
    if state.status == "running" and state.progress:
        progress = state.progress
        epoch = f"{progress['epoch'] + 1}/{epochs} {100 * progress['step'] // max(1, progress['steps']):3d}%"
        speed, loss = progress["images_per_s"], progress["loss"]
    left = row.seconds_left
    return (
        row.planned.name,
        Text(state.status + (f" ({state.reason})" if state.reason else ""), style=STYLES[state.status]),
        epoch,
        "-" if speed is None else f"{speed:.0f}",
        "-" if loss is None else f"{loss:.3f}",
        "-" if top1 is None else f"{100 * top1:.1f} %",
        "-" if left is None or not left else duration(left),
    )
