"""Damage of a run's events: what is whole is read, and what is not is left out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bench.console.output import plain_console
from bench.orchestration.display import Row, render_grid
from bench.records.plan import PlanEntry
from bench.records.states import EVENTS, PROGRESS, attempts_of, events_from, read_events, read_state
from reproduce import schema

WHOLE = [
    {"t": 1.0, "attempt": 1, "kind": schema.START, "epochs": 2, "environment": {}},
    {"t": 2.0, "attempt": 1, "kind": schema.EPOCH, "epoch": 0, "metrics": {"val/top1": 0.5, "train/loss": "NaN"}},
    {"t": 3.0, "attempt": 1, "kind": schema.EPOCH, "epoch": 1, "metrics": {"val/top1": 0.6}},
    {
        **{"t": 4.0, "attempt": 1, "kind": schema.END, "outcome": schema.FINISHED, "error": None},
        **{"metrics": {"final/val_top1": 0.6}, "duration_s": 3.0, "telemetry": None},
    },
]
LINES = [json.dumps(event).encode() + b"\n" for event in WHOLE]
JUNK = [b"5\n", b"[]\n", b"{}\n", b"null\n", b'"x"\n', b"\xff\xfe\n", b"[" * 100_000 + b"\n", b"\n", b'{"kind": []}\n']
JUNK += [json.dumps({**event, "metrics": 1, "t": None}).encode() + b"\n" for event in WHOLE]
JUNK += [b'{"t": 1, "attempt": 1, "kind": "epoch", "epoch": 0, "metrics": {"a": null}}\n']
JUNK += [b'{"t": 1, "attempt": 1, "kind": "end", "outcome": "x", "error": null, "metrics": {}, "duration_s": 1}\n']

ANY_DAMAGE = settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def write(folder: Path, content: bytes) -> None:
    (folder / EVENTS).write_bytes(content)


def kinds(folder: Path) -> list[str]:
    return [event["kind"] for event in read_events(folder)]


@given(st.integers(0, sum(map(len, LINES))))
@ANY_DAMAGE
def test_any_prefix_is_read_to_its_last_whole_line(tmp_path: Path, length: int) -> None:
    content = b"".join(LINES)[:length]
    write(tmp_path, content)
    assert kinds(tmp_path) == [event["kind"] for event in WHOLE[: content.count(b"\n")]]
    assert read_state(tmp_path).epochs_done == max(0, min(2, content.count(b"\n") - 1))


@pytest.mark.parametrize("junk", JUNK, ids=range(len(JUNK)))
@pytest.mark.parametrize("place", range(len(LINES) + 1))
def test_a_line_that_is_no_event_is_left_out(tmp_path: Path, junk: bytes, place: int) -> None:
    write(tmp_path, b"".join([*LINES[:place], junk, *LINES[place:]]))
    assert kinds(tmp_path) == [event["kind"] for event in WHOLE]
    state = read_state(tmp_path)
    assert (state.status, state.epochs_done, state.metrics["final/val_top1"]) == ("finished", 2, 0.6)


@given(st.integers(0, sum(map(len, LINES)) - 1), st.binary(max_size=40))
@ANY_DAMAGE
def test_a_file_with_other_bytes_anywhere_can_be_read_and_shown(tmp_path: Path, start: int, patch: bytes) -> None:
    content = b"".join(LINES)
    write(tmp_path, content[:start] + patch + content[start + len(patch) :])
    attempts_of(event for event, _ in events_from(tmp_path, 0))
    state = read_state(tmp_path)
    entry = PlanEntry(key="k", arm="a", seed=0, name="a s0", epochs=2)
    with plain_console().capture():
        plain_console().print(*render_grid([Row(entry, state)], 1))


def test_an_attempt_that_has_lost_its_start_keeps_its_epochs_and_its_end(tmp_path: Path) -> None:
    write(tmp_path, b"".join(LINES[1:]))
    state = read_state(tmp_path)
    assert (state.status, state.epochs_done, state.epochs) == ("finished", 2, None)


@pytest.mark.parametrize("content", [b"", b"5", b"{", b"[]", b'{"t": 1}', b"\xff"])
def test_a_damaged_heartbeat_is_none(tmp_path: Path, content: bytes) -> None:
    write(tmp_path, LINES[0])
    (tmp_path / PROGRESS).write_bytes(content)
    assert read_state(tmp_path).progress is None
