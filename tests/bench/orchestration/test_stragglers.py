"""The slowest rank of a run and its host are recorded and named: in the state, in `status`, and in MLflow's tags."""

from __future__ import annotations

import io
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from bench.orchestration.display import Row, render_grid
from bench.records.plan import PlanEntry
from bench.records.states import find_straggler, read_events, read_state
from bench.tracking.reader import RunNews
from bench.tracking.shaping import shape_run_news
from reproduce import schema


def epoch(*forward_ms: float, wait_ms: float = 1.0) -> dict[str, Any]:
    metrics = {f"{schema.RANK}{rank}/{schema.RANK_FORWARD_MS}": value for rank, value in enumerate(forward_ms)}
    metrics |= {f"{schema.RANK}{rank}/{schema.RANK_DATA_WAIT_MS}": wait_ms for rank in range(len(forward_ms))}
    return {"kind": schema.EPOCH, "epoch": 0, "metrics": {schema.TRAIN_LOSS: 1.0, **metrics}}


START = {"kind": schema.START, "hosts": ["n1", "n1", "n2", "n2"]}


def test_a_rank_far_slower_than_the_median_is_named_with_its_host() -> None:
    found = find_straggler([START, epoch(10, 11, 31, 12), epoch(10, 11, 29, 12)])
    assert str(found) == (
        "rank 2 on n2 is 2.6 times as slow as the median rank: 30 ms forward and 1 ms waiting for data, for each image"
    )


@pytest.mark.parametrize(
    "events",
    [
        [START, epoch(10, 11, 12, 12)],
        [START, {"kind": schema.EPOCH, "epoch": 0, "metrics": {schema.TRAIN_LOSS: 1.0}}],
        [START],
        [START, epoch(10, 11, 31, 12), START],
    ],
    ids=["alike", "an older record", "no epoch yet", "before the attempt"],
)
def test_nobody_is_named_without_reason(events: list[dict[str, Any]]) -> None:
    assert find_straggler(events) is None


def test_of_two_ranks_the_slower_is_named_even_where_its_host_is_not_known() -> None:
    found = find_straggler([{"kind": schema.START}, epoch(10, 40)])
    assert str(found).startswith("rank 1 is 3.7 times as slow as the median rank")


def test_a_rank_that_computes_or_loads_slowly_is_found_by_two_real_ranks(synthetic_data: Path, tmp_path: Path) -> None:
    script = Path(__file__).with_name("slow_rank.py")
    ranks = [subprocess.Popen([sys.executable, script, str(rank), tmp_path, synthetic_data]) for rank in range(2)]
    assert [rank.wait(timeout=300) for rank in ranks] == [0, 0]
    for name, most in (("computing", schema.RANK_FORWARD_MS), ("loading", schema.RANK_DATA_WAIT_MS)):
        events = read_events(tmp_path / name)
        [metrics] = [event["metrics"] for event in events if event["kind"] == schema.EPOCH]
        assert metrics[f"{schema.RANK}1/{most}"] > 30  # half a second for a batch of 12 images
        state = read_state(tmp_path / name)
        assert re.match(r"rank 1 on n2 is \d+\.\d times as slow as the median rank", str(state.straggler))

        planned = PlanEntry(key=name, arm="both", seed=0, name="both s0", epochs=1, costs={})
        row = Row(planned, state)
        console = Console(width=200, record=True, file=io.StringIO())
        console.print(*render_grid([row], 1))
        assert f"both s0: {state.straggler}" in console.export_text()

        update = shape_run_news("tiny", planned, RunNews(tuple(events), 0, None, state, ()), epoch=-1)
        assert update.tags[schema.TAG_SLOWEST] == state.straggler
        assert not [metric.name for metric in update.metrics if metric.name.startswith(schema.RANK)]
