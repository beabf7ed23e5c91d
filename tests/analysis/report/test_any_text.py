"""Names of arms, errors and descriptions stand in a report as they are, whatever they contain."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.frames import AnalysisError, Recorded, read
from analysis.report.figures.contrasts import forest
from analysis.report.rendering.files import write_files
from analysis.report.sections import build_sections
from analysis.tables import Cell, Table

NAMES = {
    "heads-reduced": "$5^$ lr",
    "heads-unreduced": "<script>alert(1)</script>",
    "plain-reduced": "a|b & c_d %#{}~^\\",
    "plain-unreduced": "[/b] :a: *x* $",
}


def renamed(recorded: Recorded) -> Recorded:
    runs, epochs = (frame.assign(arm=frame["arm"].map(NAMES)) for frame in (recorded.runs, recorded.epochs))
    runs.loc[runs["outcome"] == "failed", "error"] = "[/b] <img src=x onerror=y> $\\frac$ \x1b[31m|"
    return dataclasses.replace(recorded, runs=runs, epochs=epochs, description="<b>half</b> $x$")


@pytest.fixture(scope="module")
def folder(tracking_uri: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    recorded = renamed(read("grid", tracking_uri=tracking_uri))
    return write_files(build_sections(recorded, tracking_uri), tmp_path_factory.mktemp("report")).parent


def test_nothing_in_a_name_or_an_error_is_html(folder: Path) -> None:
    page = (folder / "index.html").read_text(encoding="utf-8")
    assert page.count("<script>") == 1  # that of the page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "<img" not in page
    assert "<b>" not in page
    assert "$5^$ lr" in page


def test_nothing_in_a_name_is_markdown(folder: Path) -> None:
    text = (folder / "results.md").read_text(encoding="utf-8")
    assert "<script" not in text
    assert "a\\|b & c_d %#{}\\~^\\\\" in text
    assert "\\$5^\\$ lr" in text
    for block in text.split("\n\n"):
        rows = [line for line in block.splitlines() if line.startswith("|")]
        assert len({len(re.findall(r"(?<!\\)\|", row)) for row in rows}) <= 1, block


def test_nothing_in_a_name_is_latex(folder: Path) -> None:
    text = (folder / "tables" / "results.tex").read_text(encoding="utf-8")
    assert r"\$5\textasciicircum \$ lr" in text
    assert "{[}/b] :a: *x* " in text  # the end of the row before it would take [...] for a length
    assert "$<$script$>$" in text
    assert r"a$|$b \& c\_d \%\#\{\}\textasciitilde \textasciicircum \textbackslash" in text


@pytest.mark.filterwarnings("ignore:Glyph")  # fonts need not have every character
@settings(max_examples=8, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=15) | st.sampled_from(["$5^$", "$$", "$\\x$"]))
def test_any_name_can_be_drawn(name: str) -> None:
    row = {"kind": "pairwise", "effect": name, "contrast": name, "difference": 0.1, "low": 0.0, "high": 0.2}
    plot = forest(pd.DataFrame([{**row, "detectable": 0.05}, {**row, "kind": "interaction", "detectable": 0.05}]))
    assert plot is not None


@given(st.text())
def test_any_name_is_one_row_of_a_table(name: str) -> None:
    lines = Table("", ["arm", "n"], [[Cell(name), Cell("1")]]).markdown().splitlines()
    assert len(lines) == 3
    assert len(re.findall(r"(?<!\\)(?:\\\\)*\|", lines[2])) == 3


def test_files_that_are_not_of_a_report_are_not_overwritten(tracking_uri: str, tmp_path: Path) -> None:
    sections = build_sections(read("single", tracking_uri=tracking_uri), tracking_uri)
    (tmp_path / "thesis.txt").write_text("mine", encoding="utf-8")
    (tmp_path / "index.html").write_text("mine", encoding="utf-8")
    with pytest.raises(AnalysisError, match=r"--output: .* holds index\.html, which is not of a report"):
        write_files(sections, tmp_path)
    assert (tmp_path / "index.html").read_text(encoding="utf-8") == "mine"
    (tmp_path / "index.html").unlink()
    for _ in range(2):  # beside other files, and over an earlier report
        write_files(sections, tmp_path)
    assert (tmp_path / "thesis.txt").read_text(encoding="utf-8") == "mine"


def test_a_folder_that_cannot_be_written_is_named(tracking_uri: str, tmp_path: Path) -> None:
    sections = build_sections(read("single", tracking_uri=tracking_uri), tracking_uri)
    (tmp_path / "file").touch()
    with pytest.raises(AnalysisError, match=r"--output: .*file.* cannot be written: "):
        write_files(sections, tmp_path / "file" / "report")
