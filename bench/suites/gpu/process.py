"""A part in its process: what it prints goes to a log, what it tells to the runner."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection

from bench.suites.gpu.part import LackingError, Report, Task

LOG = "log.txt"
"""In the part's folder."""


def serve(pipe: Connection, work: Callable[[Task, Report], None], task: Task) -> None:
    """Sends messages and at last (outcome, why)."""
    with (task.scratch / LOG).open("ab") as log:
        for descriptor in (1, 2):
            os.dup2(log.fileno(), descriptor)
    try:
        work(task, Report(pipe.send))
        pipe.send(("done", ""))
    except LackingError as lacking:
        pipe.send(("absent", str(lacking)))
    except Exception as error:
        traceback.print_exc()
        first = next(iter(str(error).splitlines()), "")
        pipe.send(("failed", f"{type(error).__name__}: {first}"))
