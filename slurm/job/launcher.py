"""Carries out one node's part of a SLURM job: that of the head node on rank 0, that of a worker node on the others.

    srun --ntasks-per-node=1 python -m slurm.job.launcher --folder F --experiment E --records R --data D [-- OPTIONS]

The head node's exit code is the job's, and is written to a file that `job.sh` ends with. It is that of `deeper run`,
with these exceptions: 75 if the job should be requeued (time limit, preemption, or the loss of Ray on the head node),
130 if it should not be (it was cancelled, or SLURM requeues it by itself), and 1 if Ray never came up. After a user's
mistake, or if no run can go on before something is mended, the job's log has one sentence and the code is 2. Any other
exception is a bug of this project: the log has its traceback, no run is marked as failed, and the code is 70.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Sequence

from bench.console.exit_codes import BUG, WRONG_INPUT
from reproduce.errors import UserError
from reproduce.files.atomic import write_atomically
from reproduce.files.private_folders import provide_home
from slurm.job.config import LauncherConfig, parse_arguments
from slurm.job.head_node import run_head_node
from slurm.job.log import log, one_line
from slurm.job.node.allocation import Allocation, read_allocation
from slurm.job.worker_node import run_worker_node


def main(arguments: Sequence[str] | None = None) -> int:
    """Run this node's part of the job and wait until it has ended.

    Args:
        arguments: The command line; by default that of this process.

    Returns:
        The exit code of this process; a worker node's is 0 unless there is a bug or no allocation.

    Raises:
        SystemExit: The command line is invalid.
    """
    config = parse_arguments(arguments)
    try:
        provide_home()
        allocation = read_allocation()
    except UserError as error:
        log(one_line(error))
        return WRONG_INPUT
    if allocation.rank:
        return _without_bugs(run_worker_node, allocation, config)
    code = _without_bugs(run_head_node, allocation, config)
    try:
        write_atomically(config.exit_code_file(allocation.job), str(code).encode(), durable=False)
    except OSError as error:  # on a full disk the job ends with srun's code
        log(f"the exit code {code} cannot be written for job.sh: {error.strerror}")
    return code


def _without_bugs(
    run_node: Callable[[Allocation, LauncherConfig], int], allocation: Allocation, config: LauncherConfig
) -> int:
    try:
        return run_node(allocation, config)
    except Exception:
        log(f"a bug in the launcher; no run is marked as failed\n{traceback.format_exc()}")
        return BUG


if __name__ == "__main__":
    sys.exit(main())
