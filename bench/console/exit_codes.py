"""Defines the exit codes of `deeper` and of the launcher of a SLURM job."""

from __future__ import annotations

from typing import Final

DONE: Final = 0
"""The command has done its work."""

FAILED: Final = 1
"""At least one run or check failed."""

WRONG_INPUT: Final = 2
"""The input is wrong, or the machine lacks what the command needs, such as room on a disk or a Ray that starts."""

BUG: Final = 70
"""The command met a bug of this project (EX_SOFTWARE of sysexits.h). A log file holds the traceback."""

INTERRUPTED: Final = 75
"""The command was interrupted, and the same command resumes (EX_TEMPFAIL of sysexits.h)."""

CANCELLED: Final = 130
"""The SLURM job was stopped for good and must not be requeued."""
