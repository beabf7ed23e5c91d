"""Shows the progress of a grid: as a live table or lines of text for `deeper run`, and once for `deeper status`.

The display only reads records, so it also shows a grid that is trained by another process or on another host.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from rich.console import Console, RenderableType
from rich.text import Text

from bench.console.formats import format_duration
from bench.console.output import show
from bench.console.tables import Column, FittedTable
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

LIVE_ORDER: tuple[Status, ...] = ("running", "failed", "interrupted", "finished", "waiting")
"""The order in which a live display selects runs by their status if not all of them fit."""

LEAST_SHARE = 0.1
"""The share of a run's first epoch after which its pace is taken from it."""

COLUMNS = (
    Column("run"),
    Column("state"),
    Column("epoch", "right"),
    Column("images/s", "right", priority=4),
    Column("loss", "right", priority=3),
    Column("top-1", "right", priority=1),
    Column("left", "right", priority=2),
)


@dataclass(frozen=True)
class Row:
    """A planned run with the state read from its record."""

    planned: PlanEntry
    state: RunState

    @property
    def pace_s(self) -> float | None:
        """Seconds that an epoch of this run takes: the mean over a finished run, otherwise those of its last recorded
        epoch, or of the training images at the rate of its first epoch. None before `LEAST_SHARE` of that epoch.
        """
        state, progress = self.state, self.state.progress
        if state.status == "finished" and state.duration_s:
            return state.duration_s / self.planned.epochs
        recorded = state.metrics.get(schema.EPOCH_SECONDS)
        if recorded is None and progress and progress["step"] >= LEAST_SHARE * progress["steps"]:
            return progress.get("epoch_s")
        return recorded

    @property
    def seconds_left(self) -> float | None:
        """Estimated seconds until this run ends: 0 for a finished or failed one, None for one without a pace."""
        pace = self.pace_s
        if self.state.status in ("finished", "failed"):
            return 0.0
        if pace is None:
            return None
        left = self.planned.epochs - self.state.epochs_done
        progress = self.state.progress
        done = progress["step"] / progress["steps"] if progress and progress["epoch"] == self.state.epochs_done else 0.0
        return max(0.0, left - done) * pace


def read_rows(runs: Sequence[PlanEntry], records: Path) -> list[Row]:
    """Read the state of each run from its record, in the order of `runs`."""
    return [Row(run, read_state(run_folder(records, run.key))) for run in runs]


class GridWatch:
    """The rows of a grid for a display that asks for them repeatedly.

    Records are read at most once per interval, and a run that was found finished is not read again.

    Args:
        runs: The runs of the grid.
        records: The folder of the records.
        interval_s: Least time between two readings, in seconds.
    """

    def __init__(self, runs: Sequence[PlanEntry], records: Path, *, interval_s: float = 1.0) -> None:
        self._runs, self._records, self._interval_s = runs, records, interval_s
        self._rows: dict[str, Row] = {}
        self._read_at = -math.inf

    def rows(self, *, now: bool = False) -> list[Row]:
        """Return one row per run, in the order of the plan.

        Args:
            now: Read the records even if the interval since the last reading has not passed.
        """
        if now or time.monotonic() - self._read_at >= self._interval_s:
            self._read_at = time.monotonic()
            finished = {key for key, row in self._rows.items() if row.state.status == "finished"}
            unfinished = [run for run in self._runs if run.key not in finished]
            self._rows |= {row.planned.key: row for row in read_rows(unfinished, self._records)}
        return [self._rows[run.key] for run in self._runs]


def time_left(rows: Sequence[Row], concurrency: int) -> float | None:
    """Estimate the seconds until all runs have ended.

    A run without a pace of its own takes the mean of its arm or, if there is none, what its network's multiply-adds
    take at the pace of the arm whose multiply-adds are closest: small layers take longer than in proportion.

    Args:
        rows: The runs of the grid.
        concurrency: The number of runs that are trained at once.

    Returns:
        The seconds; None until a run has a pace.
    """
    paces: dict[str, list[float]] = {}
    macs: dict[str, float] = {}
    for row in rows:
        macs[row.planned.arm] = row.planned.costs.get(schema.COST_MACS_TRAINING, 1.0)
        if row.pace_s is not None:
            paces.setdefault(row.planned.arm, []).append(row.pace_s)
    if not paces:
        return None
    means = {arm: mean(values) for arm, values in paces.items()}

    def pace_of(arm: str) -> float:
        if arm in means:
            return means[arm]
        closest = min(means, key=lambda other: abs(math.log(macs[other] / macs[arm])))
        return means[closest] * macs[arm] / macs[closest]

    known = [row.seconds_left for row in rows]
    total = 0.0
    for row, seconds in zip(rows, known, strict=True):
        total += seconds if seconds is not None else pace_of(row.planned.arm) * row.planned.epochs
    longest = max((seconds or 0.0 for seconds in known), default=0.0)
    return max(total / concurrency, longest)


def summary(rows: Sequence[Row], concurrency: int) -> Text:
    """Return a line with the number of runs in each state and, while runs are left, the estimated time left.

    Args:
        rows: The runs of the grid.
        concurrency: The number of runs that are trained at once.
    """
    counts = Counter(row.state.status for row in rows)
    parts = [f"{counts[status]} {status}" for status in STYLES if counts[status]]
    left = time_left(rows, concurrency)
    if left is not None and counts["finished"] + counts["failed"] < len(rows):
        parts.append(f"about {format_duration(left)} left")
    return Text(f"{len(rows)} runs: " + ", ".join(parts), style="bold")


def render_grid(rows: Sequence[Row], concurrency: int, height: int | None = None) -> list[RenderableType]:
    """Lay out a grid as a summary, a table, and lines.

    There is a line for each run that failed, was refused, lacks GPU telemetry or kernels, or has a rank far slower than
    the others.

    Args:
        rows: The runs of the grid.
        concurrency: The number of runs that are trained at once.
        height: The maximum number of rows in the table. If there are more runs, they are selected by `LIVE_ORDER`, and
            a line states how many are hidden, whose errors are not shown either. None shows all runs in the order of
            the plan.
    """
    shown = list(rows)
    if height is not None and len(shown) > height:
        shown = sorted(shown, key=lambda row: LIVE_ORDER.index(row.state.status))[:height]
    hidden = [Text(f"... and {len(rows) - len(shown)} more", style="dim")] if len(shown) < len(rows) else []
    errors = [
        Text(f"{row.planned.name}: {row.state.error}", style="red") for row in shown if row.state.status == "failed"
    ]
    refused = [Text(_refusal_line(row), style="yellow") for row in shown if row.state.refused]
    without_telemetry = [Text(_telemetry_line(row), style="yellow") for row in shown if row.state.gpu_absent]
    stragglers = [
        Text(f"{row.planned.name}: {row.state.straggler}", style="yellow") for row in shown if row.state.straggler
    ]
    without_kernels = [Text(line, style="yellow") for line in dict.fromkeys(map(_kernels_line, shown)) if line]
    without_graph = [Text(line, style="yellow") for line in dict.fromkeys(map(_graph_line, shown)) if line]
    table = FittedTable(COLUMNS, [_cells(row) for row in shown])
    warnings = [*refused, *without_telemetry, *stragglers, *without_kernels, *without_graph]
    return [summary(rows, concurrency), table, *hidden, *errors, *warnings]


def rows_as_json(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Convert the rows to the list that `deeper status --json` prints.

    Returns:
        For each run a dictionary with the keys run (its name), key, arm, seed, state, epochs_done, epochs, metrics,
        error, reason, refused, gpu_absent, straggler, kernels_dropped (a list), graph, graph_reason and seconds_left.
        What does not apply is None.
    """
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
            "refused": row.state.refused,
            "gpu_absent": row.state.gpu_absent,
            "straggler": row.state.straggler,
            "kernels_dropped": list(row.state.kernels_dropped),
            "graph": row.state.graph,
            "graph_reason": row.state.graph_reason,
            "seconds_left": row.seconds_left,
        }
        for row in rows
    ]


class ProgressLines:
    """Prints the progress of a grid line by line, for output that is not a terminal."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._last: dict[str, tuple[str, int]] = {}
        self._ended: int | None = None
        """Number of runs that had ended when the time left was last printed."""
        self._warned: set[str] = set()
        """Keys of the runs whose missing GPU telemetry has been reported, and lines on kernels and graphs."""

    def update(self, rows: Sequence[Row], concurrency: int) -> None:
        """Print a line for each run whose status or number of recorded epochs has changed since the last call.

        For each run without full GPU telemetry, a warning is printed once, and so is one on dropped kernels or graphs.
        The summary follows as soon as the time left can be estimated, and after each run that has ended.

        Args:
            rows: The runs of the grid.
            concurrency: The number of runs that are trained at once.
        """
        for row in rows:
            now = (row.state.status, row.state.epochs_done)
            if self._last.get(row.planned.key, ("waiting", 0)) != now:
                show(self._console, f"{time.strftime('%H:%M:%S')} {_progress_line(row)}")
            if row.state.gpu_absent and row.planned.key not in self._warned:
                self._warned.add(row.planned.key)
                show(self._console, _telemetry_line(row), style="yellow")
            for line in filter(None, (_kernels_line(row), _graph_line(row))):
                if line not in self._warned:
                    self._warned.add(line)
                    show(self._console, line, style="yellow")
            self._last[row.planned.key] = now
        ended = sum(row.state.status in ("finished", "failed") for row in rows)
        if ended != self._ended and ended < len(rows) and time_left(rows, concurrency) is not None:
            self._ended = ended
            show(self._console, summary(rows, concurrency))


def _progress_line(row: Row) -> str:
    name, status, epoch, speed, loss, top1, left = (str(cell) for cell in _cells(row))
    line = f"{name}: {status}, epoch {epoch}"
    if row.state.metrics:
        line += f", {speed} images/s, loss {loss}, top-1 {top1}, {left} left"
    if row.state.status == "failed":
        line += f": {row.state.error}"
    return line


def _refusal_line(row: Row) -> str:
    return f"{row.planned.name}: not resumed: {row.state.refused}"


def _telemetry_line(row: Row) -> str:
    return f"{row.planned.name}: GPU telemetry: {row.state.gpu_absent}"


def _kernels_line(row: Row) -> str:
    """Say which kernels a run does without; the same for all runs of a machine, and empty if it uses them all."""
    dropped = row.state.kernels_dropped
    others = f", and {len(dropped) - 1} more (see the record's start event)" if len(dropped) > 1 else ""
    return f"torch computes {dropped[0]}{others}" if dropped else ""


def _graph_line(row: Row) -> str:
    """Say why the steps of a run replay no CUDA graph although one was asked for; empty in all other cases."""
    reason = row.state.graph_reason
    return f"steps are launched kernel by kernel, not as a CUDA graph: {reason}" if reason else ""


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
        "-" if left is None or not left else format_duration(left),
    )
