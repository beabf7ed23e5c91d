"""What disturbances and starts of jobs cost: arithmetic on cases done by hand, and the page against the raw results."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from reproduce import schema

RESULTS = Path(__file__).parents[2] / "results" / "slurm"
sys.path.insert(0, str(RESULTS))
import goodput  # noqa: E402
import job_start  # noqa: E402
import ray_start  # noqa: E402
import scaling  # noqa: E402
from goodput import Disturbance, Seen, cost, wall  # noqa: E402

STEPS = 10
METRICS = {schema.TRAIN_SECONDS: 20.0, schema.VAL_SECONDS: 5.0}


def start(t: float, attempt: int, epoch: int = 0, step: int = 0) -> dict[str, Any]:
    return {"t": t, "kind": schema.START, "attempt": attempt, "resume": {"epoch": epoch, "step": step}}


def test_a_signalled_stop_wastes_nothing_and_its_time_is_divided() -> None:
    end = {"t": 104.0, "kind": schema.END, "attempt": 1, "outcome": schema.INTERRUPTED}
    events = [start(50, 1), end, start(130, 2, epoch=1, step=4)]
    seen = [Seen(99, 1, 13), Seen(133, 2, 15)]  # the last step before the stop was not seen
    found = cost(Disturbance("signal", 100, 0.5), events, seen, [40.0, 110.0], STEPS)
    assert found["wasted_steps"] == 0
    assert found["lost_s"] == 33
    assert found["parts_s"] == {"stopping": 4, "away": 6, "starting": 20, "warming up": 3, "catching up": 0}


def test_a_kill_wastes_the_steps_since_the_checkpoint() -> None:
    events = [start(50, 1), start(120, 2, epoch=1)]
    seen = [Seen(99, 1, 17), Seen(125, 2, 11), Seen(140, 2, 17), Seen(142, 2, 18)]
    found = cost(Disturbance("kill", 100, 0.5), events, seen, [40.0], STEPS)
    assert (found["position"], found["wasted_steps"], found["lost_s"]) == (17, 7, 42)
    assert found["parts_s"] == {"starting": 20, "warming up": 5, "catching up": 17}


def test_goodput_is_the_share_of_steps_that_count() -> None:
    epochs = [{"t": 100.0 + n, "kind": schema.EPOCH, "attempt": 1, "epoch": n, "metrics": METRICS} for n in range(2)]
    end = {"t": 180.0, "kind": schema.END, "attempt": 1, "outcome": schema.FINISHED}
    found = wall([start(110, 1), *epochs, end], 100.0, STEPS)
    times = {"wall_s": 80, "steps_s": 40, "validation_s": 10, "step_s": 2}
    assert found == {**times, "goodput": 0.5, "steps": 20, "attempts": 1}


@pytest.fixture(scope="module")
def disturbed() -> dict[str, Any]:
    return dict(json.loads((RESULTS / "preemption.json").read_text(encoding="utf-8")))


def test_the_page_has_the_tables_of_the_raw_results(disturbed: dict[str, Any]) -> None:
    page = (RESULTS / "README.md").read_text(encoding="utf-8")
    assert goodput.tables(disturbed) in page
    assert job_start.tables(json.loads((RESULTS / "job-start.json").read_text(encoding="utf-8"))) in page
    assert ray_start.tables(json.loads((RESULTS / "ray-start.json").read_text(encoding="utf-8"))) in page
    assert scaling.table(json.loads((RESULTS / "scaling.json").read_text(encoding="utf-8"))) in page


def test_a_signalled_stop_wastes_at_most_one_step_and_a_kill_one_checkpoint_interval(disturbed: dict[str, Any]) -> None:
    """The committed measurement: the goals that were set for it."""
    assert disturbed["bit_equal"]
    for one in disturbed["costs"]:
        assert one["wasted_steps"] <= (1 if one["signalled"] else disturbed["interval_steps"]), one
