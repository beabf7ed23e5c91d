"""Notes in a run's folder that a driver refused to resume the run, and why. Nothing about the run depends on them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from bench.machine.computation import Computation, changes, refusal
from bench.records.states import REFUSED, attempts_of, read_events
from reproduce import schema
from reproduce.files.atomic import write_atomically

CHECKPOINT = "checkpoint.pt"


def why_not_resumed(folder: Path, computation: Computation) -> str | None:
    """Compare the attempt that has written a run's checkpoint with how the run would be resumed.

    Args:
        folder: The run's record folder, which need not exist.
        computation: How the run would be computed.

    Returns:
        Why it is not resumed unless this is asked for, see `bench.machine.computation.refusal`. None if it may be: it
        starts afresh, nothing essential differs, or the record is older than what is compared.
    """
    if not has_checkpoint(folder):
        return None
    return refusal(changes(checkpoint_computation(folder), vars(computation)))


def has_checkpoint(folder: Path) -> bool:
    """Return whether a run has a checkpoint, damaged or not."""
    return (folder / CHECKPOINT).exists()


def checkpoint_computation(folder: Path) -> dict[str, Any] | None:
    """Read how the checkpoint of a run was computed, from the start of the attempt that has written it.

    That is the last attempt that recorded an epoch, or that began before the checkpoint was written. It is not always
    the last one, which may have died before its first checkpoint.

    Args:
        folder: The run's record folder, which need not exist.

    Returns:
        The fields of its `Computation`; without a checkpoint, those of the last attempt. None if there was no attempt,
        or if the record is older than these fields.
    """
    try:
        written = (folder / CHECKPOINT).stat().st_mtime
    except FileNotFoundError:
        written = math.inf
    attempts = attempts_of(read_events(folder))
    writers = (
        attempt
        for attempt in reversed(attempts)
        if attempt[0]["t"] <= written or any(event["kind"] == schema.EPOCH for event in attempt)
    )
    writer = next(writers, attempts[0] if attempts else None)
    found: dict[str, Any] | None = writer[0].get("computation") if writer else None
    return found


def write_refusal(folder: Path, reason: str) -> None:
    """Note in the run's folder why it is not resumed. The next attempt at the run removes the note."""
    write_atomically(folder / REFUSED, reason.encode(), durable=False)
