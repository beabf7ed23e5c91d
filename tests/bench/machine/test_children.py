"""Processes end with the process that started them, also if that one is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from multiprocessing.connection import Connection
from pathlib import Path

import psutil
import pytest

from bench.suites.harness.worker_process import received_requests

STARTED_BY_PARENT = {
    "a worker process": f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from bench.suites.harness.worker_process import WorkerProcess
from test_children import serve
worker = WorkerProcess("name", serve)
print(worker.request("pid"), flush=True)
worker.request("sleep")
""",
    "a command": """
import subprocess, sys, time
from bench.machine.children import end_with_parent
process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], preexec_fn=end_with_parent)
print(process.pid, flush=True)
time.sleep(600)
""",
    "a command and its descendants": """
import subprocess, sys, time
from bench.machine.children import ending_with_stdin
inner = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; time.sleep(600)'])"
process = subprocess.Popen(
    ending_with_stdin([sys.executable, "-c", inner]), stdin=subprocess.PIPE, start_new_session=True
)
print(process.pid, flush=True)
time.sleep(600)
""",
}


def serve(pipe: Connection) -> None:
    for request in received_requests(pipe):
        if request == "pid":
            pipe.send(os.getpid())
        else:
            time.sleep(600)


@pytest.mark.parametrize("how", STARTED_BY_PARENT)
def test_what_a_killed_process_has_started_is_gone_within_ten_seconds(how: str) -> None:
    expected = 3 if "descendants" in how else 1  # with the shell that watches, and the command's child
    with subprocess.Popen(
        [sys.executable, "-c", STARTED_BY_PARENT[how]], stdout=subprocess.PIPE, text=True, encoding="utf-8"
    ) as parent:
        assert parent.stdout is not None
        started = psutil.Process(int(parent.stdout.readline()))
        family = [started]
        deadline = time.monotonic() + 60
        while len(family) < expected and time.monotonic() < deadline:
            family = [started, *started.children(recursive=True)]
            time.sleep(0.1)
        assert len(family) == expected
        parent.send_signal(signal.SIGKILL)
        _, left = psutil.wait_procs(family, timeout=10)
        assert left == []
