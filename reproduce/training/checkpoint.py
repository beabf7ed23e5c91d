"""Write and read the checkpoint of a run.

A checkpoint is replaced atomically: even if the writing process is killed, a reader finds the last complete checkpoint,
or none if there was none. It is a dictionary that `torch.load(weights_only=True)` reads:

    key          the run's key
    epoch, step  the next step to run, both from 0; if `step` is the number of steps of an epoch, validation is next
    finished     True if all epochs are trained and validated
    network      state dict of the network with its last weights
    averaged     {"network": state dict, "steps": int} of the averaged weights; None if the recipe does not average
    optimiser    state dict of the optimiser; None if `finished`
    history      metrics of the complete epochs, one dictionary for each epoch
    ranks        one dictionary for each rank, ordered by rank: `generators` holds the states of torch's random
                 generators, `sums` the metrics of the current epoch so far (None between two epochs)
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from reproduce.atomic import replacing
from reproduce.errors import UserError

FILE_NAME = "checkpoint.pt"


class CheckpointError(UserError):
    """Raised when a checkpoint belongs to another run, or when the ranks of a run read different checkpoints."""


def save(folder: Path, content: dict[str, Any]) -> None:
    """Write `checkpoint.pt` into a folder, replacing an older one. The file is durable when this function returns.

    Args:
        folder: The folder of the run's record. It must exist.
        content: The checkpoint, with the keys that the module's docstring lists.

    Raises:
        OSError: The checkpoint could not be written, for example on a full disk. An older checkpoint is untouched.
    """
    with replacing(folder / FILE_NAME) as file:
        torch.save(content, file)


def load(folder: Path, key: str) -> dict[str, Any] | None:
    """Read the checkpoint of a run onto the CPU.

    Args:
        folder: The folder of the run's record.
        key: The run's key.

    Returns:
        The checkpoint, with the keys that the module's docstring lists. None if the folder has no checkpoint.

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
    """Find the point from which a run would be resumed, without reading any weights.

    Args:
        folder: The folder of the run's record.
        key: The run's key.

    Returns:
        The keys `epoch` and `step`, both counted from 0. None if the folder has no checkpoint of this run.
    """
    path = folder / FILE_NAME
    if not path.exists():
        return None
    content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    return {"epoch": content["epoch"], "step": content["step"]} if content["key"] == key else None
