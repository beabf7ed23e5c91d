"""Training of one run: the step, the loop, schedules, averages and checkpoints.

What is imported here loads at first use: the step alone needs torch, the loop FFCV as well.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from reproduce.training.checkpoint import CheckpointError, resume_point
    from reproduce.training.context import Context, NotFiniteLoss, Observer, Result, SilentObserver
    from reproduce.training.loop import train
    from reproduce.training.step import Step, build_step, precision_dtype, uses_bf16

__all__ = [
    "CheckpointError",
    "Context",
    "NotFiniteLoss",
    "Observer",
    "Result",
    "SilentObserver",
    "Step",
    "build_step",
    "precision_dtype",
    "resume_point",
    "train",
    "uses_bf16",
]

_MODULES = {
    "checkpoint": ("CheckpointError", "resume_point"),
    "context": ("Context", "NotFiniteLoss", "Observer", "Result", "SilentObserver"),
    "loop": ("train",),
    "step": ("Step", "build_step", "precision_dtype", "uses_bf16"),
}


def __getattr__(name: str) -> Any:
    for module, names in _MODULES.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
