"""Processes of implementations: one that has ended is reported as such, whatever is asked of it."""

from __future__ import annotations

import os
from multiprocessing.connection import Connection

import pytest

from bench.suites.harness.errors import WorkerProcessError
from bench.suites.harness.worker_process import WorkerProcess, received_requests


def serve_once(pipe: Connection) -> None:
    for request in received_requests(pipe):
        pipe.send(request)
        os._exit(3)


def test_a_process_that_has_ended_is_named_with_its_exit_code() -> None:
    process = WorkerProcess("ours", serve_once)
    assert process.request("anything") == "anything"
    process.join()
    for _ in range(2):
        with pytest.raises(WorkerProcessError, match="ours: its process ended with exit code 3"):
            process.request("more")
    process.close()
