"""Checkpoints of a run.

They are written atomically: a reader finds the last complete checkpoint or none, whenever a process is killed. A
checkpoint is a dictionary that `torch.load(weights_only=True)` reads:

    key          the run's key
    epoch, step  where to continue, both from 0; if `step` is the epoch's number of steps, validation comes next
    finished     True: the run is complete and `optimiser` is None
    network      state dict of the network with its last weights
    averaged     {"network": state dict, "steps": int} of the averaged weights, or None
    optimiser    state dict of the optimiser
    history      metrics of the epochs so far, one dictionary for each epoch
    ranks        by rank: {"generators": states of torch's random generators, "sums": those of the epoch so far or None}
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from reproduce.atomic import replacing
from reproduce.errors import UserError

FILE_NAME = "checkpoint.pt"


class CheckpointError(UserError):
    """A checkpoint cannot be used: it belongs to another run, or the ranks do not see the same one."""


def save(folder: Path, content: dict[str, Any]) -> None:
    """Write `checkpoint.pt` into a folder. It is durable when this function returns.

    Raises:
        OSError: The checkpoint could not be written, for example on a full disk. An older checkpoint is untouched.
    """
    with replacing(folder / FILE_NAME) as file:
        torch.save(content, file)


def load(folder: Path, key: str) -> dict[str, Any] | None:
    """Read the checkpoint of the run `key` onto the CPU; None if there is none.

    Raises:
        CheckpointError: The checkpoint in this folder belongs to another run.
    """
    path = folder / FILE_NAME
    if not path.exists():
        return None
    content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    if content["key"] != key:
        raise CheckpointError(
            f"{path}: belongs to run {content['key']}, not to {key}; move the file away to start this run from its "
            "beginning"
        )
    return content


def resume_point(folder: Path, key: str) -> dict[str, int] | None:
    """The epoch and step, both from 0, at which a run would continue; None if it would start from its beginning.

    Reads no weights.
    """
    path = folder / FILE_NAME
    if not path.exists():
        return None
    content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    return {"epoch": content["epoch"], "step": content["step"]} if content["key"] == key else None
