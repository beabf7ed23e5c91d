"""Training of one run: the step, the loop, schedules, averages and checkpoints."""

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
