"""Runs the tests of the kernels in Triton, which need a process that interprets them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).with_name("interpreted_kernels.py")


def run(*options: str) -> None:
    pytest.importorskip("triton")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-x", *options, str(TESTS)],
        cwd=TESTS.parents[3],
        env={**os.environ, "TRITON_INTERPRET": "1", "PYTEST_ADDOPTS": ""},
        capture_output=True,
        text=True,
        encoding="utf-8",
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]


def test_the_kernels_are_right_on_small_maps() -> None:
    run("-m", "not long")


@pytest.mark.long
def test_the_kernels_are_right_on_every_shape_of_the_network() -> None:
    run("-m", "long")
