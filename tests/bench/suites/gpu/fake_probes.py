"""Probes that end, fail, die or hang. They have a module of their own because worker processes import it by name."""

from __future__ import annotations

import os
import subprocess
import sys
import time

from bench.suites.gpu.probe import MissingRequirementError, Probe, ProbeContext, Reporter


def ends(context: ProbeContext, reporter: Reporter) -> None:
    reporter.table("figures", {"one": {"images/s": 10.0}})
    reporter.check("a bound", 1.0, at_most=2.0)
    reporter.note(f"process {os.getpid()}")


def misses(context: ProbeContext, reporter: Reporter) -> None:
    reporter.check("a bound", 3.0, at_most=2.0)


def fails(context: ProbeContext, reporter: Reporter) -> None:
    reporter.table("figures", {"one": {"images/s": 10.0}})
    print("printed before")
    raise ValueError("a first line\na second one")


def dies(context: ProbeContext, reporter: Reporter) -> None:
    os._exit(3)


def lacks(context: ProbeContext, reporter: Reporter) -> None:
    raise MissingRequirementError("there is no such tool")


def hangs(context: ProbeContext, reporter: Reporter) -> None:
    """Hangs, with a child process that it reports."""
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"])
    reporter.table("figures", {"one": {"process": float(child.pid)}})
    time.sleep(1000)


def probe(run: object, **fields: object) -> Probe:
    name = run.__name__  # type: ignore[attr-defined]
    return Probe(**{"name": name, "help": name, "run": run, "seconds": 1.0} | fields)  # type: ignore[arg-type]
