"""The table at the end, as text and as Markdown."""

from __future__ import annotations

from bench.suites.gpu.markdown import report
from bench.suites.gpu.part import Check, Result, Table

STEP = Result(
    part="step",
    outcome="done",
    tables=(
        Table(
            title="training, batch 256",
            rows={"deeper": {"images/s": 6557.8, "W": 512.0}, "torchvision": {"images/s": 3704.5, "W": None}},
        ),
    ),
    checks=(
        Check(what="deterministic / free", value=1.375, at_most=1.25),
        Check(what="attempts", value=2, at_least=2, at_most=2),
        Check(what="cosine", value=None, at_least=0.9),
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
| deterministic / free | 1.375 | ≤ 1.25   | **missed** |
| attempts             |     2 | ≥ 2, ≤ 2 | ok         |
| cosine               |     — | ≥ 0.9    | **missed** |

step: a | b

1 of 3 checks hold; missed: step: deterministic / free; step: cosine.

**not, or not all, there**

| part     |          | why                         |
| -------- | -------- | --------------------------- |
| nccl     | left out | there is no GPU             |
| compiled | cut      | ended at its limit of 120 s |"""


def test_figures_checks_and_what_is_missing_stand_in_tables() -> None:
    others = [
        Result(part="nccl", outcome="absent", why="there is no GPU"),
        Result(part="compiled", outcome="cut", why="ended at its limit of 120 s"),
    ]
    assert report([STEP, *others], "deeper bench gpu on a GPU") == EXPECTED
