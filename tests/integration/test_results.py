"""Committed reference results: tables and verdicts are what the committed raw records give."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from analysis.report.writing import write_report
from bench.records.plan import experiments
from bench.tracking.location import tracking_uri
from reproduce.claims.ledger import load_ledger

RESULTS = Path(__file__).parents[2] / "results"
RECORDS = sorted(folder.parent / "records" for folder in RESULTS.glob("*/report"))
CLAIMS = RESULTS / "claims"

DECIMAL = re.compile(r"-?\d+\.\d+(?:e[+-]\d+)?")


def assert_same(ours: Any, committed: Any) -> None:
    """Equal but for the last digit of a decimal number: BLAS sums in another order on another kind of CPU."""
    ours, committed = (text if isinstance(text, str) else json.dumps(text, indent=1) for text in (ours, committed))
    assert DECIMAL.sub("#", ours) == DECIMAL.sub("#", committed)
    for found, expected in zip(DECIMAL.findall(ours), DECIMAL.findall(committed), strict=True):
        last_digit = 10.0 ** -len(expected.partition("e")[0].partition(".")[2])
        assert float(found) == pytest.approx(float(expected), rel=1e-9, abs=1.01 * last_digit), (found, expected)


@pytest.mark.parametrize(
    ("ours", "same"),
    [("n 3, 67.80", True), ("n 3, 67.81", False), ("n 4, 67.79", False), ("n 3, 67.79 higher", False)],
)
def test_only_a_decimals_last_digit_may_differ(ours: str, same: bool) -> None:
    if same:
        assert_same(ours, "n 3, 67.79")
    else:
        with pytest.raises(AssertionError):
            assert_same(ours, "n 3, 67.79")


def test_there_are_reference_results() -> None:
    assert RECORDS


@pytest.mark.parametrize("committed", RECORDS, ids=lambda path: path.parent.name)
def test_tables_follow_from_the_raw_records(committed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    records = shutil.copytree(committed, tmp_path / "records")
    subprocess.run([sys.executable, "-m", "bench.tracking.publisher", "--records", str(records), "--once"], check=True)
    (name,) = experiments(records)
    write_report(name, tracking_uri=tracking_uri(records), out=tmp_path / "report")
    for table in ("arms.csv", "effects.csv", "results.md"):
        ours, theirs = (
            (folder / "report" / table).read_text(encoding="utf-8") for folder in (tmp_path, committed.parent)
        )
        assert_same(ours, theirs)


def test_verdicts_follow_from_the_raw_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    records, found = shutil.copytree(CLAIMS / "records", tmp_path / "records"), tmp_path / "ledger.json"
    subprocess.run([sys.executable, "-m", "bench.tracking.publisher", "--records", str(records), "--once"], check=True)
    command = [sys.executable, "-m", "bench.cli", "claims", "--records", str(records), "--output", str(found)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    empirical = {claim.id for claim in load_ledger().claims if claim.kind == "empirical"}
    ours, committed = (
        {
            claim["id"]: claim
            for claim in json.loads(path.read_text(encoding="utf-8"))["claims"]
            if claim["id"] in empirical
        }
        for path in (found, CLAIMS / "ledger.json")
    )
    assert_same(ours, committed)
