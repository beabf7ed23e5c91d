"""Notes in a run's folder that a driver refused to resume the run, and why. Nothing about the run depends on them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bench.machine.computation import Computation, changes, refusal
from bench.records.states import REFUSED, attempts_of, read_events
from reproduce.files.atomic import write_atomically

CHECKPOINT = "checkpoint.pt"


def why_not_resumed(folder: Path, computation: Computation) -> str | None:
    """Compare the last attempt at a run with how it would be resumed.

    Args:
        folder: The run's record folder, which need not exist.
        computation: How the run would be computed.

    Returns:
        Why it is not resumed unless this is asked for, see `bench.machine.computation.refusal`. None if it may be: it
        starts afresh, nothing essential differs, or the record is older than what is compared.
    """
    if not (folder / CHECKPOINT).exists():
        return None
    return refusal(changes(last_computation(folder), vars(computation)))


def last_computation(folder: Path) -> dict[str, Any] | None:
    """Read how the last attempt at a run was computed. None if there was none, or if it is older than this field."""
    attempts = attempts_of(read_events(folder))
    return attempts[-1][0].get("computation") if attempts else None


def write_refusal(folder: Path, reason: str) -> None:
    """Note in the run's folder why it is not resumed. The next attempt at the run removes the note."""
    write_atomically(folder / REFUSED, reason.encode(), durable=False)
