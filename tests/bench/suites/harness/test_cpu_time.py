"""CPU time of a process with everything that it has started, whether that still runs or has ended."""

from __future__ import annotations

import subprocess
import sys

from bench.suites.harness.cpu_time import cpu_seconds

BURN = "import time\nwhile time.process_time() < 0.3: pass\nprint(flush=True)\n"
LEAST_S = 0.28  # the kernel counts in ticks of 10 ms


def test_a_child_that_runs_counts() -> None:
    before = cpu_seconds()
    with subprocess.Popen([sys.executable, "-c", f"{BURN}time.sleep(60)"], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        assert cpu_seconds() - before > LEAST_S
        child.kill()


def test_a_child_that_has_ended_counts_with_what_it_had_started() -> None:
    before = cpu_seconds()
    parent = f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {BURN!r}])"
    subprocess.run([sys.executable, "-c", parent], check=True, stdout=subprocess.DEVNULL)
    assert cpu_seconds() - before > LEAST_S
