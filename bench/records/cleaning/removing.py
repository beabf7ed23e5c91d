"""Removes what `leftovers` finds. A removal that was killed is done again by the same command."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.records.cleaning.kinds import Kind
from bench.records.cleaning.leftovers import Found, Leftover, run_leftovers
from bench.records.leases import LEASE
from bench.records.states import is_held
from reproduce.files.locks import try_lock


@dataclass(frozen=True)
class Removed:
    """What was removed, and the runs that were left alone."""

    leftovers: tuple[Leftover, ...]
    in_hand: tuple[Path, ...]


def remove(found: Found, kinds: Sequence[Kind]) -> Removed:
    """Remove files that could go, run by run, each under the run's lease.

    What a run has left is looked up again under its lease, because the run may have gone on meanwhile.

    Args:
        found: What `find_leftovers` has found.
        kinds: The kinds to remove.
    """
    removed: list[Leftover] = []
    in_hand = list(found.in_hand)
    by_run = {leftover.run: leftover.experiment for leftover in found.leftovers if leftover.run is not None}
    for folder, experiment in by_run.items():
        lease = try_lock(folder / LEASE)
        if lease is None:
            in_hand.append(folder)
            continue
        try:
            if is_held(folder):
                in_hand.append(folder)
                continue
            for leftover in run_leftovers(folder, experiment, kinds):
                if _remove(leftover):
                    removed.append(leftover)
        finally:
            os.close(lease)
    for leftover in found.leftovers:
        if leftover.run is None:
            _remove(leftover)
            removed.append(leftover)
    return Removed(tuple(removed), tuple(in_hand))


def _remove(leftover: Leftover) -> bool:
    """Remove files; returns False, and leaves them, where a checkpoint that is damaged needs the one before it."""
    if leftover.kind == "checkpoints" and leftover.run is not None:
        from reproduce.training.checkpoint import keep_final_weights

        if not keep_final_weights(leftover.run, leftover.run.name):
            return False
    for path in leftover.paths:
        path.unlink(missing_ok=True)
    for folder in dict.fromkeys(path.parent for path in leftover.paths):
        with contextlib.suppress(OSError):  # it holds something else
            folder.rmdir()
    return True
