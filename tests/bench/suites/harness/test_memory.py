"""The peak of a process's memory."""

from __future__ import annotations

import subprocess
import sys

from bench.suites.harness.memory import own_peak_gib


def test_the_peak_of_a_process_leaves_out_that_of_the_process_that_started_it() -> None:
    large = bytearray(512 * 2**20)
    large[::4096] = bytes(len(large) // 4096)
    program = "from bench.suites.harness.memory import own_peak_gib; print(own_peak_gib())"
    # Without vfork, so that the process begins as a copy of this one.
    started = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, preexec_fn=lambda: None
    )
    assert own_peak_gib() > 0.5
    assert 0.005 < float(started.stdout) < 0.4
    assert len(large) == 512 * 2**20
