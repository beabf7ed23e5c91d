"""Parts for the runner: they end, fail, die or hang; a module of its own, since processes import it by its name."""

from __future__ import annotations

import os
import subprocess
import sys
import time

from bench.suites.gpu.part import LackingError, Part, Report, Task


def ends(task: Task, report: Report) -> None:
    report.table("figures", {"one": {"images/s": 10.0}})
    report.check("a bound", 1.0, at_most=2.0)
    report.note(f"process {os.getpid()}")


def misses(task: Task, report: Report) -> None:
    report.check("a bound", 3.0, at_most=2.0)


def fails(task: Task, report: Report) -> None:
    report.table("figures", {"one": {"images/s": 10.0}})
    print("printed before")
    raise ValueError("a first line\na second one")


def dies(task: Task, report: Report) -> None:
    os._exit(3)


def lacks(task: Task, report: Report) -> None:
    raise LackingError("there is no such tool")


def hangs(task: Task, report: Report) -> None:
    """With a process below it."""
    below = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"])
    report.table("figures", {"one": {"process": float(below.pid)}})
    time.sleep(1000)


def part(work: object, **fields: object) -> Part:
    name = work.__name__  # type: ignore[attr-defined]
    return Part(**{"name": name, "help": name, "work": work, "seconds": 1.0} | fields)  # type: ignore[arg-type]
