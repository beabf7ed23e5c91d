"""Records and ports for the tests of publishing."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from bench.records.plan import write_plan
from bench.records.record import Record
from reproduce.spec import PlannedRun


@pytest.fixture
def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def one_run(tmp_path: Path, planned: Callable[..., PlannedRun], begin: Callable[[Path, PlannedRun], Record]) -> Path:
    """Records of one experiment with one finished run."""
    run = planned(0)
    write_plan(tmp_path, "first", [run], {})
    begin(tmp_path, run).end("finished")
    return tmp_path
