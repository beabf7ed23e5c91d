"""The exit codes of `deeper` and of the launcher of a SLURM job."""

from __future__ import annotations

from typing import Final

DONE: Final = 0

FAILED: Final = 1
"""Some runs failed, or a check did."""

WRONG_INPUT: Final = 2
"""The input is wrong, and nothing was started."""

BUG: Final = 70
"""The program itself is wrong (EX_SOFTWARE of sysexits.h); a log file holds the traceback."""

INTERRUPTED: Final = 75
"""The same command resumes (EX_TEMPFAIL of sysexits.h)."""

CANCELLED: Final = 130
"""The job was stopped for good and must not be requeued."""
