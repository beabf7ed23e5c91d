"""Committed reference results: the tables are what the committed raw records give."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from analysis.report import report
from bench.records import experiments
from bench.tracking import tracking_uri

RESULTS = Path(__file__).parents[2] / "results"
RECORDS = sorted(RESULTS.glob("*/records"))


def test_there_are_reference_results() -> None:
    assert RECORDS


@pytest.mark.parametrize("committed", RECORDS, ids=lambda path: path.parent.name)
def test_tables_follow_from_the_raw_records(committed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    records = shutil.copytree(committed, tmp_path / "records")
    subprocess.run([sys.executable, "-m", "bench.publisher", "--records", str(records), "--once"], check=True)
    (name,) = experiments(records)
    report(name, tracking_uri=tracking_uri(records), out=tmp_path / "report")
    for table in ("arms.csv", "effects.csv", "results.md"):
        assert (tmp_path / "report" / table).read_text() == (committed.parent / "report" / table).read_text()
