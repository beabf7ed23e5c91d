"""The Markdown that is printed at the end."""

from __future__ import annotations

from bench.suites.gpu.markdown import render
from bench.suites.gpu.probe import BoundCheck, ProbeResult, ProbeTable

STEP = ProbeResult(
    probe="step",
    outcome="done",
    tables=(
        ProbeTable(
            title="training, batch 256",
            rows={"deeper": {"images/s": 6557.8, "W": 512.0}, "torchvision": {"images/s": 3704.5, "W": None}},
        ),
    ),
    checks=(
        BoundCheck(what="deterministic / free", value=1.375, at_most=1.25),
        BoundCheck(what="attempts", value=2, at_least=2, at_most=2),
        BoundCheck(what="cosine", value=None, at_least=0.9),
    ),
    notes=("a | b",),
)

EXPECTED = """\
## deeper bench gpu on a GPU

**step: training, batch 256**

|             | images/s |   W |
| ----------- | -------: | --: |
| deeper      |     6558 | 512 |
| torchvision |     3704 |   — |

**step: checks**

|                      | value | bound    | check      |
| -------------------- | ----: | -------- | ---------- |
| deterministic / free | 1.375 | ≤ 1.25   | **failed** |
| attempts             |     2 | ≥ 2, ≤ 2 | ok         |
| cosine               |     — | ≥ 0.9    | **failed** |

step: a | b

1 of 3 checks pass; failed: step: deterministic / free; step: cosine.

**missing or incomplete**

| probe    |          | why                         |
| -------- | -------- | --------------------------- |
| nccl     | left out | there is no GPU             |
| compiled | cut      | ended at its limit of 120 s |"""


def test_values_checks_and_what_is_missing_are_tables() -> None:
    others = [
        ProbeResult(probe="nccl", outcome="absent", why="there is no GPU"),
        ProbeResult(probe="compiled", outcome="cut", why="ended at its limit of 120 s"),
    ]
    assert render([STEP, *others], "deeper bench gpu on a GPU") == EXPECTED
