"""The suite of layers measures each network and each layer in a process of its own."""

from __future__ import annotations

import json
from pathlib import Path

from analysis.claims.decide import decide_by_benchmarks
from bench.cli import main
from reproduce.claims.ledger import load_ledger
from reproduce.claims.verdicts import Verdict


def test_claims_read_what_the_suite_writes(tmp_path: Path) -> None:
    file = tmp_path / "layers.json"
    assert main(["bench", "layers", "--side", "32", "--batch", "4", "--repetitions", "3", "--output", str(file)]) == 0
    result = {"kind": "here", **json.loads(file.read_text(encoding="utf-8"))}
    once = {name: values for comparison in result["comparisons"] for name, values in comparison["once"].items()}
    assert once["sparse"]["multiply-adds an image, M"] == once["dense"]["multiply-adds an image, M"]
    assert all(values["peak memory, GiB"] > 0 for values in once.values())
    for claim in load_ledger().only(["S-reduce-cheap", "P-sparse"]).claims:
        assert decide_by_benchmarks(claim, [result]).verdict is not Verdict.NOT_MEASURED
