"""What the grid's table says of records: states, pace and time left."""

from __future__ import annotations

import pytest
from rich.console import Console

from bench.orchestration.display import PlainProgress, Row, as_json, duration, render, summary, time_left
from bench.records.plan import PlanEntry
from bench.records.states import RunState
from reproduce import schema


def row(name: str, status: str, *, done: int = 0, epoch_s: float | None = None, **more: object) -> Row:
    arm, _, seed = name.rpartition(" s")
    metrics = {} if epoch_s is None else {schema.EPOCH_SECONDS: epoch_s}
    entry = PlanEntry(key=name, arm=arm, seed=int(seed), name=name, epochs=10)
    state = RunState(key=name, status=status, epoch=done - 1 if done else None, metrics=metrics, **more)  # type: ignore[arg-type]
    return Row(entry, state)


def test_no_time_is_told_before_the_first_epoch_has_set_a_pace() -> None:
    assert time_left([row("a s0", "running"), row("b s0", "waiting")], concurrency=1) is None


def test_a_waiting_run_takes_the_pace_of_its_arm() -> None:
    table = [
        row("fast s0", "finished", done=10, epoch_s=1.0),
        row("slow s0", "finished", done=10, epoch_s=5.0),
        row("slow s1", "waiting"),
    ]
    assert time_left(table, concurrency=1) == pytest.approx(50)


def test_concurrent_runs_share_what_is_left_but_no_run_is_quicker_than_itself() -> None:
    table = [row(f"a s{seed}", "running", done=5, epoch_s=2.0) for seed in range(4)]
    assert time_left(table, concurrency=2) == pytest.approx(20)
    assert time_left(table, concurrency=100) == pytest.approx(10)


def test_a_part_of_an_epoch_counts_as_done() -> None:
    progress = {"epoch": 5, "step": 30, "steps": 60}
    assert row("a s0", "running", done=5, epoch_s=2.0, progress=progress).seconds_left == pytest.approx(9)


def test_summary_counts_states_and_a_program_may_read_the_same() -> None:
    table = [row("a s0", "finished", done=10, epoch_s=1.0), row("a s1", "failed", error="loss"), row("a s2", "waiting")]
    assert summary(table, 1).plain == "3 runs: 1 finished, 1 failed, 1 waiting, about 10 s left"
    assert [(run["state"], run["error"]) for run in as_json(table)] == [
        ("finished", None),
        ("failed", "loss"),
        ("waiting", None),
    ]


def test_an_interrupted_run_says_why(capsys: pytest.CaptureFixture[str]) -> None:
    table = [row("a s0", "interrupted", done=3, reason="time limit"), row("a s1", "interrupted")]
    Console(width=100).print(render(table, 1))
    first, second = capsys.readouterr().out.splitlines()[2:]
    assert "interrupted (time limit)" in first
    assert "(" not in second
    assert [run["reason"] for run in as_json(table)] == ["time limit", None]


def test_gpu_telemetry_that_lacks_something_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    reason = "NVML does not know device 7; it has none"
    table = [row("a s0", "running", gpu_absent=reason), row("a s1", "running")]
    Console(width=100).print(render(table, 1))
    assert f"a s0: GPU telemetry: {reason}" in capsys.readouterr().out.splitlines()
    assert [run["gpu_absent"] for run in as_json(table)] == [reason, None]
    plain = PlainProgress(Console(width=200))
    for _ in range(2):
        plain.update(table, 1)
    assert capsys.readouterr().out.count(reason) == 1, "once a run"


@pytest.mark.parametrize(("seconds", "text"), [(59, "59 s"), (200, "3 min 20 s"), (7500, "2 h 05 min")])
def test_durations_are_told_in_two_units(seconds: float, text: str) -> None:
    assert duration(seconds) == text
