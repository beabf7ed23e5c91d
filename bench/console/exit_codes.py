"""What `deeper` and the launcher of a SLURM job end with."""

from __future__ import annotations

from typing import Final

DONE: Final = 0
FAILED: Final = 1  # some runs failed, or a check did
WRONG_INPUT: Final = 2  # nothing was started
INTERRUPTED: Final = 75  # the same again goes on; sysexits.h's "try again"
CANCELLED: Final = 130  # stopped for good: a job is not to be requeued
