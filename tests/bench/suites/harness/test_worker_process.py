"""Processes of implementations: one that has ended is reported as such, whatever is asked of it."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from multiprocessing.connection import Connection

import pytest

from bench.suites.harness.errors import WorkerProcessError
from bench.suites.harness.worker_process import WorkerProcess, receive_all, received_requests


def serve_once(pipe: Connection) -> None:
    for request in received_requests(pipe):
        pipe.send(request)
        os._exit(3)


def serve_late(pipe: Connection) -> None:
    for request in received_requests(pipe):
        time.sleep(600)
        pipe.send(request)


def test_a_process_that_ends_is_reported_while_others_are_still_at_work() -> None:
    late, once = WorkerProcess("late", serve_late), WorkerProcess("once", serve_once)
    once.request("first")
    for process in (late, once):
        with suppress(WorkerProcessError):
            process.send("second")
    with pytest.raises(WorkerProcessError, match="once: its process ended with exit code 3"):
        receive_all([late, once])
    late.kill()
    for process in (late, once):
        process.join()
        process.close()


def test_a_process_that_has_ended_is_named_with_its_exit_code() -> None:
    process = WorkerProcess("ours", serve_once)
    assert process.request("anything") == "anything"
    process.join()
    for _ in range(2):
        with pytest.raises(WorkerProcessError, match="ours: its process ended with exit code 3"):
            process.request("more")
    process.close()
