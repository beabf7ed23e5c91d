"""Starts one node of a SLURM job.

    srun --ntasks-per-node=1 python -m slurm.job.launcher --folder F --experiment E --records R --data D [-- OPTIONS]

The head node's exit code is the job's: that of `deeper run`, but 75 if the job should be requeued (time limit,
preemption, lost nodes) and 130 if it should not be (cancelled, or SLURM requeues it by itself). A user's mistake is one
sentence in the job's log and ends with 2. Any other exception is a bug of this project: its traceback goes to the log,
no run is marked as failed, and the code is 70.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Sequence
from typing import Final

from bench.console.exit_codes import WRONG_INPUT
from reproduce.errors import UserError
from slurm.job.config import parse_arguments
from slurm.job.head_node import run_head_node
from slurm.job.log import log, one_line
from slurm.job.node.allocation import read_allocation
from slurm.job.worker_node import run_worker_node

INTERNAL_ERROR: Final = 70  # sysexits.h's EX_SOFTWARE


def main(arguments: Sequence[str] | None = None) -> int:
    """Run this node's part of the job. Returns the exit code."""
    config = parse_arguments(arguments)
    try:
        allocation = read_allocation()
    except UserError as error:
        log(one_line(error))
        return WRONG_INPUT
    run_node = run_worker_node if allocation.rank else run_head_node
    try:
        return run_node(allocation, config)
    except Exception:
        log(f"{allocation.host}: a bug in the launcher; no run is marked as failed\n{traceback.format_exc()}")
        return INTERNAL_ERROR


if __name__ == "__main__":
    sys.exit(main())
