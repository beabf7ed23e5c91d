"""Runs a probe in its worker process, sends its messages to the runner, and redirects its output to a log."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection

from bench.suites.gpu.probe import MissingRequirementError, ProbeContext, Reporter

LOG = "log.txt"
"""Name of the log in the scratch folder of the probe."""


def serve(pipe: Connection, run: Callable[[ProbeContext, Reporter], None], context: ProbeContext) -> None:
    """Run a probe, and send its messages and at last its outcome to the runner.

    Standard output and standard error of the whole process are redirected to the log, also those of native code and of
    processes that the probe starts. Ends the process.

    Args:
        pipe: The connection to the runner. The last object that is sent is the tuple `(outcome, why)`, in which the
            outcome is "done", "absent" or "failed".
        run: The function of the probe. Its exceptions are caught; the log receives their traceback, except for
            `MissingRequirementError`.
        context: The context of the probe.
    """
    with (context.scratch / LOG).open("ab") as log:
        for descriptor in (1, 2):
            os.dup2(log.fileno(), descriptor)
    try:
        run(context, Reporter(pipe.send))
        pipe.send(("done", ""))
    except MissingRequirementError as missing:
        pipe.send(("absent", str(missing)))
    except Exception as error:
        traceback.print_exc()
        first_line = next(iter(str(error).splitlines()), "")
        pipe.send(("failed", f"{type(error).__name__}: {first_line}"))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # threads that DDP leaves behind may abort the interpreter's shutdown
