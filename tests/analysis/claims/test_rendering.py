"""The ledger's table from the file that `deeper claims --json` writes."""

from __future__ import annotations

import json
from pathlib import Path

from analysis.claims.rendering import readme_table
from bench.cli import main


def test_a_written_ledger_becomes_a_markdown_table(tmp_path: Path) -> None:
    path = tmp_path / "ledger.json"
    assert main(["claims", "--id", "P-depth", "--id", "S-reduce-example", "--output", str(path)]) == 0
    lines = readme_table(path).splitlines()
    assert lines[0] == "Exact, by the network alone: 2 hold."
    assert lines[2] == "| Id | Claim | Claimed | Measured | Verdict | Evidence |"
    claims = {claim["id"]: claim for claim in json.loads(path.read_text(encoding="utf-8"))["claims"]}
    assert [line.split(" | ")[0] for line in lines[4:]] == ["| S-reduce-example", "| P-depth"]
    assert f"| holds | {claims['P-depth']['evidence']} |" in lines[5]


def test_a_ledger_of_an_older_version_is_read_without_scopes(tmp_path: Path) -> None:
    row = {"id": "S-one", "statement": "x", "claimed": "x", "measured": "1", "verdict": "holds", "evidence": "n = 3"}
    path = tmp_path / "ledger.json"
    path.write_text(json.dumps({"claims": [{**row, "kind": "empirical"}]}), encoding="utf-8")
    lines = readme_table(path).splitlines()
    assert lines[0] == "In the scope of what was measured: 1 holds."
    assert lines[4] == "| S-one | x | x | 1 | holds | n = 3 |"
