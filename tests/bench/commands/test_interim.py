"""Reports that are made while runs train, with real processes in place of `deeper report`."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest

from bench.cli import main
from bench.commands.experiments import interim
from bench.commands.experiments.interim import InterimReports
from bench.console.exit_codes import WRONG_INPUT

MADE = "import os, sys; print(sys.argv[1], file=sys.stderr); print(f'page-{os.nice(0)}')"


@pytest.fixture(autouse=True)
def _without_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interim, "PUBLISHED_AFTER_S", 0.0)
    monkeypatch.setattr(interim, "PAUSE_S", 0.0)


def reports(tmp_path: Path, program: str) -> InterimReports:
    return InterimReports([sys.executable, "-c", program], tmp_path / "report.log")


def told(made: InterimReports, finished: int, *, seconds: float = 60.0) -> str | None:
    """What is told until a report was made for so many finished runs."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if (sentence := made.update(finished)) is not None:
            return sentence
        if made._process is None and made._covered == finished:
            return None
        time.sleep(0.05)
    raise AssertionError("no report was made")


def test_a_first_report_is_made_and_told_once_a_run_has_finished(tmp_path: Path) -> None:
    made = reports(tmp_path, MADE)
    assert made.update(0) is None
    assert not (tmp_path / "report.log").exists()
    niceness = os.nice(0) + interim.NICENESS
    assert told(made, 1) == f"a first report, of 1 finished run: page-{min(niceness, 19)}"
    assert told(made, 3) is None, "only the first one is told"
    assert (tmp_path / "report.log").read_text("utf-8") == "--no-attach\n" * 2


def test_a_report_that_cannot_be_made_yet_is_not_told(tmp_path: Path) -> None:
    made = reports(tmp_path, "raise SystemExit('nothing is published yet')")
    assert told(made, 1) is None
    assert "nothing is published yet" in (tmp_path / "report.log").read_text("utf-8")


def test_a_report_under_way_is_ended_with_the_runs(tmp_path: Path) -> None:
    made = reports(tmp_path, "import time; time.sleep(600)")
    while made._process is None:
        made.update(1)
    process = made._process
    made.close()
    assert process.returncode != 0
    made.close()


def test_a_report_needs_what_is_published(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "quickstart", "--report", "--no-publish", "--records", str(tmp_path)]) == WRONG_INPUT
    assert "--report: is made from what is published; leave out --no-publish" in capsys.readouterr().err
