"""Reads whether runs on GPUs capture their steps, and says where a step cannot be captured.

Importing this module imports no torch, so that every command can check the environment variable before it starts.
"""

from __future__ import annotations

import os
from typing import NamedTuple

from reproduce.errors import UserError

VARIABLE = "DEEPER_GRAPH"
"""Environment variable: `on` captures the steps of runs on GPUs, `off` does not. Unset means off."""


class GraphUse(NamedTuple):
    """Whether the steps of a run are replays of a CUDA graph."""

    captured: bool
    reason: str
    """Why steps are launched kernel by kernel although a graph was asked for; empty if they are captured."""


def graph_wanted() -> bool:
    """Read the environment variable that asks for graphs.

    Raises:
        UserError: The variable is set to something else than `on` or `off`.
    """
    value = os.environ.get(VARIABLE, "")
    if value not in ("", "on", "off"):
        raise UserError(f"{VARIABLE}={value}: unknown; valid: on, off, or unset")
    return value == "on"


def obstacle(backend: str | None) -> str:
    """Say why the steps of a run cannot be captured.

    Args:
        backend: How torch.distributed connects the ranks, such as `nccl`; None for a single rank.

    Returns:
        The reason, or an empty string if nothing is known to prevent it.
    """
    return (
        "" if backend in (None, "nccl") else f"sums over the ranks by {backend} cannot be captured, only those by nccl"
    )
