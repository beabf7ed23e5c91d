"""The set-up of a rank's process: memory, kernels and limits."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from reproduce.execution.process import CONTEXT_BYTES, prepare_process, timed_kernels

FREED_MEMORY = """
import torch
from pathlib import Path
from reproduce.execution.process import prepare_process

def resident_mib():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 >> 20

prepare_process(torch.device("cpu"), threads=1)
before = resident_mib()
for _ in range(3):
    torch.empty(64 << 20, dtype=torch.uint8).fill_(1)
kept = resident_mib() - before
prepare_process(torch.device("cpu"), threads=1)
print(kept, resident_mib() - before)
"""


def test_freed_memory_is_kept_for_the_next_step_and_given_back_before_the_next_run() -> None:
    """In a process of its own, whose heap no other test has shaped."""
    done = subprocess.run([sys.executable, "-c", FREED_MEMORY], check=True, capture_output=True, text=True)
    kept, left = map(int, done.stdout.split())
    assert kept >= 60
    assert left < 30


def test_kernels_are_timed_only_where_asked_and_never_where_they_must_be_deterministic() -> None:
    cudnn = torch.backends.cudnn
    prepare_process(torch.device("cpu"), threads=1)
    assert not cudnn.benchmark
    with timed_kernels(True):
        assert cudnn.benchmark
    assert not cudnn.benchmark, "validation takes the heuristics' choice"
    try:
        prepare_process(torch.device("cpu"), threads=1, deterministic=True)
        assert cudnn.deterministic
        assert torch.are_deterministic_algorithms_enabled()
        with timed_kernels(True):
            assert not cudnn.benchmark
    finally:
        prepare_process(torch.device("cpu"), threads=1)
    assert not torch.are_deterministic_algorithms_enabled(), "the next run of a kept worker is free again"


def test_a_deterministic_run_does_not_wait_for_the_compiler_to_be_imported() -> None:
    code = """
import sys, torch
from reproduce.execution.process import prepare_process
prepare_process(torch.device("cpu"), threads=1, deterministic=True)
assert torch.are_deterministic_algorithms_enabled()
sys.exit("torch._inductor" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("share", "limit"), [(1.0, 1.0), (0.25, 0.25 - CONTEXT_BYTES / (80 * 2**30)), (0.001, 0.0)], ids=str
)
def test_a_run_that_shares_a_gpu_is_limited_to_its_share_of_the_memory(
    monkeypatch: pytest.MonkeyPatch, share: float, limit: float
) -> None:
    """Checks the calls of torch; only a GPU can show their effect."""
    called: dict[str, Any] = {}
    properties = SimpleNamespace(total_memory=80 * 2**30)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    for name in ("set_device", "set_per_process_memory_fraction", "reset_peak_memory_stats"):
        monkeypatch.setattr(torch.cuda, name, lambda *arguments, name=name: called.update({name: arguments}))
    device = torch.device("cuda", 1)
    prepare_process(device, threads=torch.get_num_threads(), gpu_share=share)
    assert called["set_per_process_memory_fraction"] == (pytest.approx(limit), device)
    assert called["set_device"] == (device,)
