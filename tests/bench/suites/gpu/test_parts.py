"""The parts that a CPU has, at a small size."""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from torch import Tensor

from bench.suites.gpu import part
from bench.suites.gpu.part import Check, Message, Note, Rates, Report, Size, Table, Task
from bench.suites.gpu.parts import correctness, loader, main_job, nccl, step
from bench.suites.gpu.registry import PARTS
from bench.suites.harness.meter import SPEED
from bench.suites.step.implementations import FORMS, OURS
from reproduce.training.step import Step, StepResult

TINY = Size(side=32, batch=4, batches=(2,), published_batch=2, pictures=32, repetition_s=0.01)


@pytest.fixture
def task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Task:
    monkeypatch.setitem(part.SIZES, "cpu", TINY)
    return Task(device_name="cpu", threads=1, deadline=time.monotonic() + 600, scratch=tmp_path)


class Told:
    """What a part told."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.report = Report(self.messages.append)

    @property
    def tables(self) -> dict[str, Table]:
        return {one.title: one for one in self.messages if isinstance(one, Table)}

    @property
    def checks(self) -> list[Check]:
        return [one for one in self.messages if isinstance(one, Check)]


def test_a_step_of_the_right_gradients_passes(task: Task) -> None:
    told = Told()
    correctness.correctness(task, told.report)
    assert len(told.checks) == 8
    exact = [check for check in told.checks if check.what.startswith("float32") or "norm none" in check.what]
    assert all(check.passed for check in exact), exact
    ((_, table),) = told.tables.items()
    assert list(table.rows) == ["float32, norm none", "bf16, norm none", "float32, norm batch", "bf16, norm batch"]


def test_wrong_gradients_are_found(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    right = Step.__call__

    def wrong(self: Step, images: Tensor, labels: Tensor, learning_rate: float) -> StepResult:
        return right(self, images, labels.flip(0) + 1, learning_rate)

    monkeypatch.setattr(Step, "__call__", wrong)
    told = Told()
    correctness.correctness(task, told.report)
    missed = {check.what for check in told.checks if not check.passed}
    assert f"float32, norm none: {correctness.GRADIENT}" in missed
    assert f"float32, norm none: {correctness.ERROR}" not in missed


def test_a_step_in_all_its_forms_gives_a_rate_for_plans(task: Task) -> None:
    told = Told()
    step.step(task, told.report)
    first, second = told.tables.values()
    assert list(first.rows) == [name for name, form in FORMS.items() if not form.compiled]
    assert list(second.rows) == [OURS, step.BEST_PEER]
    (rates,) = (one.rates for one in told.messages if isinstance(one, Rates))
    assert rates[0]["images_per_s"] == first.rows[OURS][SPEED]
    assert rates[0]["cpus"] == 1


def test_the_loader_is_measured_by_threads(task: Task) -> None:
    told = Told()
    loader.loader(replace(task, threads=2), told.report)
    (table,) = told.tables.values()
    assert {name: set(row) for name, row in table.rows.items()} == {
        f"{threads} threads": {"images/s", "images/s, photometric"} for threads in (1, 2)
    }


def test_threads_are_doubled_up_to_the_cores() -> None:
    assert loader.thread_counts(1) == [1]
    assert loader.thread_counts(6) == [1, 2, 4, 6]
    assert loader.thread_counts(16) == [1, 2, 4, 8, 16]


RANKS = """
import os, sys, time
from pathlib import Path
from bench.suites.gpu.parts import nccl
from bench.suites.gpu.part import Check, Report, Task
task = Task(device_name="cpu", threads=1, deadline=time.monotonic() + 600, scratch=Path(sys.argv[1]))
told = []
nccl.ranks(task, Report(told.append), "gloo")
os._exit(sum(isinstance(one, Check) and not one.passed for one in told))
"""


def test_one_rank_reduces_and_steps_as_none_does(tmp_path: Path) -> None:
    assert nccl.IMAGES > 1
    assert subprocess.run([sys.executable, "-c", RANKS, str(tmp_path)], check=False).returncode == 0


def test_only_what_is_not_ours_counts_as_chatter(tmp_path: Path) -> None:
    (tmp_path / "printed.txt").write_text(
        "1 runs, 1 to do; starting Ray ...\nboth s0 running\n"
        "(raylet) a node died\nTraceback (most recent call last):\n",
        encoding="utf-8",
    )
    assert main_job.Job(tmp_path).foreign_lines() == ["(raylet) a node died", "Traceback (most recent call last):"]


def test_parts_have_names_of_their_own() -> None:
    names = [one.name for one in PARTS]
    assert len(set(names)) == len(names)


def test_the_suite_runs_without_ray_mlflow_and_ffcv(tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules.update(ray=None, mlflow=None, ffcv=None); from bench.cli import main; "
        f"sys.exit(main(['bench', 'gpu', '--part', 'run', '--part', 'loader', '--out', {str(tmp_path)!r}]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    assert "| run    | left out | not installed: ray, ffcv |" in done.stdout
    assert "| loader | left out | not installed: ffcv      |" in done.stdout


def test_a_figure_that_is_not_finite_is_no_figure_and_fails_its_check() -> None:
    told = Told()
    told.report.check("loss", float("nan"), at_most=1)
    told.report.table("t", {"a": {"x": float("inf")}})
    told.report.note("n")
    check, table, note = told.messages
    assert isinstance(check, Check)
    assert not check.passed
    assert isinstance(table, Table)
    assert table.rows == {"a": {"x": None}}
    assert note == Note(text="n")
