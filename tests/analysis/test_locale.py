"""`deeper report` and `deeper claims` work where the locale's encoding is not UTF-8."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ASCII = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
DEEPER = """
import locale, sys
from bench.cli import main
assert locale.getpreferredencoding(False) != "UTF-8"
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture
def records(tracking_uri: str) -> Path:
    return Path(tracking_uri.removeprefix("sqlite:///")).parent


def deeper(*arguments: str | Path) -> str:
    """What the command prints in an ASCII locale."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("LC_", "MLFLOW_"))}
    command = [sys.executable, "-c", DEEPER, *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, env={**environment, **ASCII}, capture_output=True)
    assert done.returncode == 0, done.stderr.decode("utf-8", errors="replace")
    return done.stdout.decode("ascii")


def test_a_report_is_written_in_utf_8(records: Path, tmp_path: Path) -> None:
    printed = deeper("report", "claim-heads", "--records", records, "--output", tmp_path)
    assert printed == f"{tmp_path / 'index.html'}\n"
    assert "both − none" in (tmp_path / "results.md").read_text(encoding="utf-8")
    assert "✓" in (tmp_path / "index.html").read_text(encoding="utf-8")


def test_findings_are_printed_with_replacements_and_written_in_utf_8(claims_records: Path, tmp_path: Path) -> None:
    files = ["--output", tmp_path / "claims.json", "--markdown", tmp_path / "claims.md"]
    printed = deeper("claims", "claim-heads", "--id", "S-aux-helps", "--records", claims_records, *files)
    assert "? 0" in printed  # the part's "≥ 0"
    (claim,) = json.loads((tmp_path / "claims.json").read_text(encoding="utf-8"))["claims"]
    assert claim["parts"][0]["expected"] == "≥ 0"
    assert "points [+" in (tmp_path / "claims.md").read_text(encoding="utf-8")
