"""Committed reference results: tables and verdicts are what the committed raw records give."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from analysis.report import report
from bench.records import experiments
from bench.tracking import tracking_uri
from reproduce.claims.ledger import load_ledger
from reproduce.claims.registry import names

RESULTS = Path(__file__).parents[2] / "results"
RECORDS = sorted(folder.parent / "records" for folder in RESULTS.glob("*/report"))
CLAIMS = RESULTS / "claims"


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


def test_verdicts_follow_from_the_raw_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    records, found = shutil.copytree(CLAIMS / "records", tmp_path / "records"), tmp_path / "ledger.json"
    subprocess.run([sys.executable, "-m", "bench.publisher", "--records", str(records), "--once"], check=True)
    command = [sys.executable, "-m", "bench.cli", "claims", "--records", str(records), "--json", str(found)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    empirical = {claim.id for claim in load_ledger(None, measurements=names()).claims if claim.kind == "empirical"}
    ours, committed = (
        {claim["id"]: claim for claim in json.loads(path.read_text())["claims"] if claim["id"] in empirical}
        for path in (found, CLAIMS / "ledger.json")
    )
    assert ours == committed
