"""Repeated runs in a report: what is read of the file of `deeper verify`, what is refused, what is shown."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from analysis.comparisons.reproduction import EQUAL, NOT_REPRODUCED, Comparison
from analysis.details.verification import read_verifications, verification_sentences, verification_table
from analysis.frames import AnalysisError, Recorded, read
from analysis.report.writing import write_report
from reproduce import schema

COMMITTED = Path(__file__).parents[3] / "results" / "verification" / "ablation-imagenette.json"


@pytest.fixture(scope="module")
def recorded(tracking_uri: str) -> Recorded:
    return read("grid", tracking_uri=tracking_uri)


@pytest.fixture
def file(tmp_path: Path, recorded: Recorded) -> Path:
    """The committed verification, as if it were of two runs of the grid, of which the second has failed."""
    content = json.loads(COMMITTED.read_text(encoding="utf-8"))
    first = content["runs"][0] | {"key": str(recorded.runs["key"].iloc[0])}
    failed = first | {"run": "heads s1", "key": str(recorded.runs["key"].iloc[1]), "metrics": [], "predictions": None}
    content |= {"experiment": "grid", "runs": [first, failed | {"state": schema.FAILED}]}
    return written(tmp_path, content)


def written(folder: Path, content: Any) -> Path:
    file = folder / "verified.json"
    file.write_text(json.dumps(content), encoding="utf-8")
    return file


def test_what_the_command_wrote_is_read_and_told(file: Path, recorded: Recorded) -> None:
    repeated = read_verifications([file], recorded)
    first, failed = verification_sentences(repeated)
    assert first.startswith("reduced-both s0: recorded by AMD EPYC, torch 2.14.1, commit 864bfc9; repeated by Intel")
    assert "3 of 4 numbers are equal or within the interval." in first
    assert first.endswith("Both runs predict the same class for 3132 of 3925 validation images.")
    assert failed.endswith("The repeated run is failed, so that nothing is compared.")
    verdicts = [cells[-1].text for cells in verification_table(repeated).rows]
    assert [verdict == NOT_REPRODUCED for verdict in verdicts] == [False, True, False, False]


def test_numbers_that_json_cannot_hold_are_read_back(file: Path, recorded: Recorded) -> None:
    content = json.loads(file.read_text(encoding="utf-8"))
    content["runs"][0]["metrics"][0] |= {"measured": "Infinity", "low": "NaN", "high": "NaN"}
    (first, _) = read_verifications([written(file.parent, content)], recorded)
    found = first.comparisons[0]
    assert isinstance(found, Comparison)
    assert (found.measured, found.low == found.low) == (float("inf"), False)
    assert found.verdict != EQUAL


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"experiment": "other"}, "is of 'other', and the report of 'grid'"),
        ({"runs": [{"run": "a s0"}]}, "does not hold repeated runs; `deeper verify RESULTS --output FILE` writes them"),
        ({"static": [], "runs": None}, "does not hold repeated runs"),
    ],
)
def test_another_file_is_refused(file: Path, recorded: Recorded, change: dict[str, Any], message: str) -> None:
    content = json.loads(file.read_text(encoding="utf-8")) | change
    with pytest.raises(AnalysisError, match="--verification") as refused:
        read_verifications([written(file.parent, content)], recorded)
    assert message in str(refused.value)


def test_a_run_of_another_plan_is_refused(file: Path, recorded: Recorded) -> None:
    content = json.loads(file.read_text(encoding="utf-8"))
    content["runs"][0]["key"] = "0ddba11a"
    with pytest.raises(AnalysisError, match="repeats reduced-both s0 with key 0ddba11a, which is not among the runs"):
        read_verifications([written(file.parent, content)], recorded)


def test_a_file_that_is_no_json_is_refused(tmp_path: Path, recorded: Recorded) -> None:
    (tmp_path / "text").write_text("{", encoding="utf-8")
    for name, why in (("text", "as JSON: "), ("missing", ": No such file or directory; name another file")):
        with pytest.raises(AnalysisError, match=f"--verification: .*{name} cannot be read ?{why}"):
            read_verifications([tmp_path / name], recorded)


def test_the_report_has_a_section_of_repeated_runs(file: Path, tracking_uri: str, tmp_path: Path) -> None:
    page = write_report("grid", tracking_uri=tracking_uri, out=tmp_path / "with", verifications=[file])
    html, text = (page.with_name(name).read_text(encoding="utf-8") for name in ("index.html", "results.md"))
    assert '<h2 id="verification-part">' in html
    assert '<a href="#verification-part">Repeated runs</a>' in html
    assert "| reduced-both s0 | top-5 | 0.9488 | 0.9506 | [0.9499, 0.9514] | 3 | not reproduced |" in text
    assert (page.parent / "tables" / "verification.tex").is_file()
    page = write_report("grid", tracking_uri=tracking_uri, out=tmp_path / "with")
    assert "verification-part" not in page.read_text(encoding="utf-8")
    assert not (page.parent / "tables" / "verification.tex").exists()
