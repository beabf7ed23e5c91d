"""Runs a probe in its worker process: what it prints goes to a log, and what it reports goes to the runner."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection

from bench.suites.gpu.probe import MissingRequirementError, ProbeContext, Reporter

LOG = "log.txt"
"""Name of the log in the scratch folder of the probe."""


def serve(pipe: Connection, run: Callable[[ProbeContext, Reporter], None], context: ProbeContext) -> None:
    """Sends the messages of a probe, and at the end `(outcome, why)`."""
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
