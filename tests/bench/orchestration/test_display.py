"""What the table of a grid says of its records: states, pace and time left."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Group

from bench.console.output import plain_console, show
from bench.orchestration.display import ProgressLines, Row, render_grid, rows_as_json, summary, time_left
from bench.records.plan import PlanEntry
from bench.records.states import RunState
from reproduce import schema


def row(
    name: str, status: str, *, done: int = 0, epoch_s: float | None = None, macs: float | None = None, **more: object
) -> Row:
    arm, _, seed = name.rpartition(" s")
    metrics = {} if epoch_s is None else {schema.EPOCH_SECONDS: epoch_s}
    costs = {} if macs is None else {schema.COST_MACS_TRAINING: macs}
    entry = PlanEntry(key=name, arm=arm, seed=int(seed), name=name, epochs=10, costs=costs)
    state = RunState(key=name, status=status, epoch=done - 1 if done else None, metrics=metrics, **more)  # type: ignore[arg-type]
    return Row(entry, state)


def test_no_time_left_is_estimated_before_the_first_epoch_has_set_a_pace() -> None:
    assert time_left([row("a s0", "running"), row("b s0", "waiting")], concurrency=1) is None


def test_a_waiting_run_takes_the_pace_of_its_arm() -> None:
    rows = [
        row("fast s0", "finished", done=10, epoch_s=1.0),
        row("slow s0", "finished", done=10, epoch_s=5.0),
        row("slow s1", "waiting"),
    ]
    assert time_left(rows, concurrency=1) == pytest.approx(50)


def test_an_arm_that_has_not_begun_is_estimated_by_its_multiply_adds() -> None:
    rows = [row("small s0", "finished", done=10, epoch_s=1.0, macs=1e8), row("large s0", "waiting", macs=3e8)]
    assert time_left(rows, concurrency=1) == pytest.approx(30)


def test_it_is_estimated_by_the_arm_of_the_closest_size() -> None:
    small, large = row("small s0", "finished", done=10, epoch_s=2.0, macs=1e8), row("large s0", "waiting", macs=5e8)
    middle = row("middle s0", "finished", done=10, epoch_s=5.0, macs=4e8)
    assert time_left([small, middle, large], concurrency=1) == pytest.approx(62.5)


def test_a_first_epoch_sets_the_pace_before_it_ends() -> None:
    def running(step: int) -> Row:
        progress = {"t": 130.0, "epoch": 0, "step": step, "steps": 100, "epoch_s": 50.0}
        return row("a s0", "running", progress=progress)

    assert running(9).seconds_left is None, "a few steps say little"
    assert running(20).seconds_left == pytest.approx(9.8 * 50)


def test_a_finished_run_counts_with_all_that_it_took() -> None:
    rows = [row("a s0", "finished", done=10, epoch_s=1.0, duration_s=50.0), row("a s1", "waiting")]
    assert time_left(rows, concurrency=1) == pytest.approx(50)


def test_concurrent_runs_share_the_time_but_the_longest_run_bounds_it() -> None:
    rows = [row(f"a s{seed}", "running", done=5, epoch_s=2.0) for seed in range(4)]
    assert time_left(rows, concurrency=2) == pytest.approx(20)
    assert time_left(rows, concurrency=100) == pytest.approx(10)


def test_a_part_of_an_epoch_counts_as_done() -> None:
    progress = {"epoch": 5, "step": 30, "steps": 60}
    assert row("a s0", "running", done=5, epoch_s=2.0, progress=progress).seconds_left == pytest.approx(9)


def test_the_summary_and_the_json_count_the_same_states() -> None:
    rows = [row("a s0", "finished", done=10, epoch_s=1.0), row("a s1", "failed", error="loss"), row("a s2", "waiting")]
    assert summary(rows, 1).plain == "3 runs: 1 finished, 1 failed, 1 waiting, about 10 s left"
    assert [(run["state"], run["error"]) for run in rows_as_json(rows)] == [
        ("finished", None),
        ("failed", "loss"),
        ("waiting", None),
    ]


def test_an_interrupted_run_says_why(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [row("a s0", "interrupted", done=3, reason="time limit"), row("a s1", "interrupted")]
    show(plain_console(), *render_grid(rows, 1))
    first, second = capsys.readouterr().out.splitlines()[2:]
    assert "interrupted (time limit)" in first
    assert "(" not in second
    assert [run["reason"] for run in rows_as_json(rows)] == ["time limit", None]


def test_lines_give_the_time_left_when_it_is_known_and_after_each_run(capsys: pytest.CaptureFixture[str]) -> None:
    lines = ProgressLines(plain_console())

    def said(*rows: Row) -> list[str]:
        lines.update(rows, 1)
        return [line for line in capsys.readouterr().out.splitlines() if "runs:" in line]

    waiting = row("a s1", "waiting")
    assert said(row("a s0", "running"), waiting) == []
    first = said(row("a s0", "running", done=1, epoch_s=1.0), waiting)
    assert first == ["2 runs: 1 running, 1 waiting, about 19 s left"]
    assert said(row("a s0", "running", done=2, epoch_s=1.0), waiting) == [], "it was said"
    assert said(row("a s0", "finished", done=10, epoch_s=1.0), waiting) == [
        "2 runs: 1 finished, 1 waiting, about 10 s left"
    ]


def test_missing_gpu_telemetry_is_reported_once_a_run(capsys: pytest.CaptureFixture[str]) -> None:
    reason = "NVML does not know device 7; it has none"
    rows = [row("a s0", "running", gpu_absent=reason), row("a s1", "running")]
    show(plain_console(), *render_grid(rows, 1))
    assert f"a s0: GPU telemetry: {reason}" in capsys.readouterr().out.splitlines()
    assert [run["gpu_absent"] for run in rows_as_json(rows)] == [reason, None]
    lines = ProgressLines(plain_console())
    for _ in range(2):
        lines.update(rows, 1)
    assert capsys.readouterr().out.count(reason) == 1


def test_why_steps_replay_no_graph_is_said_once_for_all_runs(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [row(name, "running", graph=False, graph_reason="out of memory") for name in ("a s0", "a s1")]
    rows += [row("a s2", "running", graph=True), row("a s3", "running")]
    line = "steps are launched kernel by kernel, not as a CUDA graph: out of memory"
    show(plain_console(), *render_grid(rows, 1))
    assert " ".join(capsys.readouterr().out.split()).count(line) == 1
    assert [(run["graph"], run["graph_reason"]) for run in rows_as_json(rows)] == [
        *[(False, "out of memory")] * 2,
        (True, None),
        (None, None),
    ]
    lines = ProgressLines(plain_console())
    for _ in range(2):
        lines.update(rows, 1)
    assert " ".join(capsys.readouterr().out.split()).count(line) == 1


def test_dropped_kernels_are_said_once_for_all_runs(capsys: pytest.CaptureFixture[str]) -> None:
    dropped = ("max pool 3x3: the kernel in Triton gives other maps", "another: it failed")
    rows = [row(name, "running", kernels_dropped=dropped) for name in ("a s0", "a s1")] + [row("a s2", "running")]
    line = f"torch computes {dropped[0]}, and 1 more (see the record's start event)"
    show(plain_console(), *render_grid(rows, 1))
    assert " ".join(capsys.readouterr().out.split()).count(line) == 1
    assert [run["kernels_dropped"] for run in rows_as_json(rows)] == [list(dropped), list(dropped), []]
    lines = ProgressLines(plain_console())
    for _ in range(2):
        lines.update(rows, 1)
    assert " ".join(capsys.readouterr().out.split()).count(line) == 1


def test_progress_lines_print_each_change_once_and_names_as_typed(capsys: pytest.CaptureFixture[str]) -> None:
    lines = ProgressLines(plain_console())
    for rows in ([row("[/b] :a: s0", "running")], [row("[/b] :a: s0", "running")], [row("[/b] :a: s0", "finished")]):
        lines.update(rows, 1)
    running, finished = capsys.readouterr().out.splitlines()
    assert running.endswith("[/b] :a: s0: running, epoch 0/10")
    assert finished.endswith("[/b] :a: s0: finished, epoch 0/10")


def test_a_live_display_shows_running_and_failed_runs_first_and_counts_the_others() -> None:
    rows = [row(f"a s{seed}", "waiting") for seed in range(5)]
    rows += [row("a s5", "failed", error="loss is not finite"), row("a s6", "running")]
    console = plain_console()
    with console.capture() as captured:
        console.print(Group(*render_grid(rows, 1, height=2)))
    lines = captured.get().splitlines()
    assert [line.split()[:3] for line in lines[2:4]] == [["a", "s6", "running"], ["a", "s5", "failed"]]
    assert lines[4:] == ["... and 5 more", "a s5: loss is not finite"]


@pytest.mark.parametrize("width", [40, 80, 200])
def test_an_interrupted_run_with_a_long_name_is_never_cut(width: int) -> None:
    name = "auxiliary-both-reduced-unnormalised s0"
    rows = [row(name, "interrupted", done=3, epoch_s=12.5, reason="interrupted by hand"), row("b s1", "running")]
    console = plain_console()
    console.width = width
    with console.capture() as captured:
        console.print(Group(*render_grid(rows, 1)))
    text = " ".join(captured.get().split())
    assert name in text
    assert "interrupted (interrupted by hand)" in text
    assert "…" not in text
    assert max(map(len, captured.get().splitlines())) <= width


def test_a_run_that_was_not_resumed_says_why(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [row("a s0", "interrupted", done=3, refused="its checkpoint comes from other code"), row("a s1", "waiting")]
    console = plain_console()
    console.width = 200
    show(console, *render_grid(rows, 1))
    assert "a s0: not resumed: its checkpoint comes from other code" in capsys.readouterr().out.splitlines()
    assert [run["refused"] for run in rows_as_json(rows)] == ["its checkpoint comes from other code", None]


ANY_TEXT = st.text(st.characters(), max_size=30) | st.sampled_from(
    ["[/...", "[/b]", "[red]", ":a:", "\x1b[31m", "$5^$"]
)


@settings(max_examples=60, deadline=None)
@given(arm=ANY_TEXT, error=ANY_TEXT, reason=ANY_TEXT, absent=ANY_TEXT, width=st.integers(20, 200))
def test_a_grid_shows_any_text_and_survives_it(arm: str, error: str, reason: str, absent: str, width: int) -> None:
    rows = [
        row(f"{arm} s0", "failed", error=error),
        row(f"{arm} s1", "interrupted", reason=reason, gpu_absent=absent),
    ]
    console = plain_console()
    console.width = width
    with console.capture() as captured:
        console.print(Group(*render_grid(rows, 1)))
        ProgressLines(console).update(rows, 1)
    shown = captured.get()
    assert not set(shown) & set("\x07\x1b\x9b")
    for text in ("[/...", "[red]", ":a:", "$5^$"):
        assert text not in error or text in "".join(shown.split("\n"))
    json.dumps(rows_as_json(rows), allow_nan=False)
