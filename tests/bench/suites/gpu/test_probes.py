"""The probes that run on a CPU, at a small size."""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from torch import Tensor

from bench.suites.gpu import probe
from bench.suites.gpu.probe import (
    BoundCheck,
    Message,
    Note,
    ProbeContext,
    ProbeTable,
    RateEntries,
    Reporter,
    WorkloadSize,
)
from bench.suites.gpu.probes import correctness, feeding, kernels, loader, main_job, step
from bench.suites.gpu.registry import PROBES
from bench.suites.harness.meter import SPEED
from bench.suites.step.implementations import GRAPHED, OURS, STEPS
from reproduce.execution.precision import resolve_precision
from reproduce.training.step import Step, StepResult

TINY = WorkloadSize(
    side=32,
    batch=4,
    batches=(2,),
    small_side=32,
    small_batch=2,
    published_batch=2,
    pictures=32,
    repetition_s=0.01,
)


@pytest.fixture
def context(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ProbeContext:
    monkeypatch.setitem(probe.SIZES, "cpu", TINY)
    return ProbeContext(device_name="cpu", threads=1, deadline=time.monotonic() + 600, scratch=tmp_path)


class Reported:
    """What a probe reported."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.reporter = Reporter(self.messages.append)

    @property
    def tables(self) -> dict[str, ProbeTable]:
        return {one.title: one for one in self.messages if isinstance(one, ProbeTable)}

    @property
    def checks(self) -> list[BoundCheck]:
        return [one for one in self.messages if isinstance(one, BoundCheck)]


def test_each_kind_of_layer_is_measured_by_our_kernels_and_by_torchs(
    context: ProbeContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernels, "REPETITIONS", 1)
    monkeypatch.setattr(kernels, "resolve_precision", lambda *_: resolve_precision("bf16", context.device))
    reported = Reported()
    kernels.kernels(context, reported.reporter)
    assert [check.passed for check in reported.checks] == [True]
    layers, sums = reported.tables.values()
    assert sum(float(row[kernels.LAYERS] or 0) for row in layers.rows.values()) == 13 + 59 + 9
    assert set(sums.rows) == set(kernels.PARTS.values())
    assert all(isinstance(row[kernels.RATIO], float) for row in sums.rows.values())


def test_a_step_with_the_right_gradients_passes(context: ProbeContext) -> None:
    reported = Reported()
    correctness.correctness(context, reported.reporter)
    assert len(reported.checks) == 8
    exact = [check for check in reported.checks if check.what.startswith("float32") or "norm none" in check.what]
    assert all(check.passed for check in exact), exact
    ((_, table),) = reported.tables.items()
    assert list(table.rows) == ["float32, norm none", "bf16, norm none", "float32, norm batch", "bf16, norm batch"]


def test_wrong_gradients_are_found(context: ProbeContext, monkeypatch: pytest.MonkeyPatch) -> None:
    right = Step.__call__

    def wrong(self: Step, images: Tensor, labels: Tensor, learning_rate: float) -> StepResult:
        return right(self, images, labels.flip(0) + 1, learning_rate)

    monkeypatch.setattr(Step, "__call__", wrong)
    reported = Reported()
    correctness.correctness(context, reported.reporter)
    missed = {check.what for check in reported.checks if not check.passed}
    assert f"float32, norm none: {correctness.GRADIENT}" in missed
    assert f"float32, norm none: {correctness.ERROR}" not in missed


def test_a_step_in_all_implementations_gives_a_rate_for_plans(context: ProbeContext) -> None:
    reported = Reported()
    step.step(context, reported.reporter)
    first, second = reported.tables.values()
    expected = [name for name, one in STEPS.items() if not one.compiled and one.makers != "engines"]
    assert list(first.rows) == [name for name in expected if name != GRAPHED], "a CPU has no graph"
    assert list(second.rows) == [OURS, step.BEST_BASELINE]
    (rates,) = (one.rates for one in reported.messages if isinstance(one, RateEntries))
    assert rates[0]["images_per_s"] == first.rows[OURS][SPEED]
    assert rates[0]["cpus"] == 1


def test_the_loader_is_measured_by_number_of_threads(context: ProbeContext) -> None:
    reported = Reported()
    loader.loader(replace(context, threads=2), reported.reporter)
    (table,) = reported.tables.values()
    assert {name: set(row) for name, row in table.rows.items()} == {
        f"{threads} threads": {"images/s", "images/s, photometric"} for threads in (1, 2)
    }


def test_a_step_is_measured_alone_and_fed_by_the_loader(context: ProbeContext, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feeding, "REPETITIONS", 1)
    monkeypatch.setattr(feeding, "STEPS", 6)
    reported = Reported()
    feeding.feeding(context, reported.reporter)
    (table,) = reported.tables.values()
    assert list(table.rows) == [feeding.ALONE, feeding.AHEAD, feeding.WAITING]
    assert table.rows[feeding.ALONE][feeding.SHARE] == 1


def test_threads_are_doubled_up_to_the_cores() -> None:
    assert loader.thread_counts(1) == [1]
    assert loader.thread_counts(6) == [1, 2, 4, 6]
    assert loader.thread_counts(16) == [1, 2, 4, 8, 16]


RANKS = """
import os, sys, time
from pathlib import Path
from bench.suites.gpu.probe import BoundCheck, ProbeContext, Reporter
from bench.suites.gpu.probes import nccl
context = ProbeContext(device_name="cpu", threads=1, deadline=time.monotonic() + 600, scratch=Path(sys.argv[1]))
messages = []
nccl.check_backend(context, Reporter(messages.append), "gloo")
checks = [one for one in messages if isinstance(one, BoundCheck)]
os._exit(sum(not check.passed for check in checks) if len(checks) == 3 else 99)
"""


def test_one_rank_reduces_and_its_step_under_ddp_is_that_without(tmp_path: Path) -> None:
    assert subprocess.run([sys.executable, "-c", RANKS, str(tmp_path)], check=False).returncode == 0


def test_lines_of_ray_and_of_errors_are_foreign(tmp_path: Path) -> None:
    (tmp_path / "printed.txt").write_text(
        "1 runs, 1 to do; starting Ray ...\nboth s0 running\n"
        "(raylet) a node died\nTraceback (most recent call last):\n",
        encoding="utf-8",
    )
    assert main_job.MainJob(tmp_path).foreign_lines() == ["(raylet) a node died", "Traceback (most recent call last):"]


def test_probes_have_different_names() -> None:
    names = [one.name for one in PROBES]
    assert len(set(names)) == len(names)


def test_the_suite_runs_without_ray_mlflow_and_ffcv(tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules.update(ray=None, mlflow=None, ffcv=None); from bench.cli import main; "
        f"sys.exit(main(['bench', 'gpu', '--probe', 'run', '--probe', 'loader', '--output', {str(tmp_path)!r}]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    assert "| run    | left out | not installed: ray, ffcv |" in done.stdout
    assert "| loader | left out | not installed: ffcv      |" in done.stdout


def test_a_value_that_is_not_finite_is_left_out_and_fails_its_check() -> None:
    reported = Reported()
    reported.reporter.check("loss", float("nan"), at_most=1)
    reported.reporter.table("t", {"a": {"x": float("inf")}})
    reported.reporter.note("n")
    check, table, note = reported.messages
    assert isinstance(check, BoundCheck)
    assert not check.passed
    assert isinstance(table, ProbeTable)
    assert table.rows == {"a": {"x": None}}
    assert note == Note(text="n")
