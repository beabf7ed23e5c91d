"""Checkpoints: written atomically, so that a reader finds the last whole one or none, whatever was killed when.

A checkpoint is a dictionary that `torch.load(weights_only=True)` reads:

    key          the run's key
    epoch, step  where to go on, both from 0; `step` may be the epoch's number of steps: validation is next
    finished     True: the run is complete and `optimiser` None
    network      state dict of the last weights
    averaged     {"network": state dict, "steps": int} of the averaged weights, or None
    optimiser    state dict
    history      metrics of the epochs so far, a dictionary an epoch
    ranks        by rank: {"generators": torch's generator states, "sums": those of the epoch so far or None}
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from reproduce.atomic import replacing
from reproduce.errors import UserError

FILE_NAME = "checkpoint.pt"


class CheckpointError(UserError):
    """A checkpoint that does not belong to this run."""


def save(folder: Path, content: dict[str, Any]) -> None:
    """Write `folder/checkpoint.pt`; durable on return. Raises OSError, the old checkpoint untouched, on a full disk."""
    with replacing(folder / FILE_NAME) as file:
        torch.save(content, file)


def load(folder: Path, key: str) -> dict[str, Any] | None:
    """The checkpoint of the run `key` on the CPU, None where there is none. Raises `CheckpointError`."""
    path = folder / FILE_NAME
    if not path.exists():
        return None
    content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    if content["key"] != key:
        raise CheckpointError(f"{path}: belongs to run {content['key']}, not to {key}; move it away to start afresh")
    return content


def resume_point(folder: Path, key: str) -> dict[str, int] | None:
    """Where `load` would have a run go on: epoch and step, from 0; None where it would begin. Reads no weights."""
    path = folder / FILE_NAME
    if not path.exists():
        return None
    content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    return {"epoch": content["epoch"], "step": content["step"]} if content["key"] == key else None
