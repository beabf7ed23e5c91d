"""Two sides beside each other: what differs, what is decided, and what is said of it."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from scipy import stats

from analysis.frames import AnalysisError, Recorded, read
from analysis.report.comparing.content import compare
from analysis.report.comparing.differences import environment_differences, setting_differences
from analysis.report.comparing.sides import Side, read_selection, read_side
from analysis.report.comparing.writing import write_comparison
from analysis.report.rendering.page import keys
from analysis.settings import Settings
from reproduce import schema

ARMS = ["heads-reduced", "heads-unreduced", "plain-reduced", "plain-unreduced"]


@pytest.fixture(scope="module")
def first(tracking_uri: str) -> Recorded:
    return read("claim-heads", tracking_uri=tracking_uri)


@pytest.fixture(scope="module")
def second(first: Recorded) -> Recorded:
    """The same grid trained twice as long on another machine: every run 3 points better, one arm without a result."""
    runs = first.runs[first.runs["arm"] != "plain-unreduced"].copy()
    runs["key"] += "-long"
    runs[schema.FINAL_TOP1] += 0.03
    runs["recipe.epochs"] = "8"
    runs[schema.TAG_HOST] = "other"
    epochs = first.epochs[first.epochs["run_id"].isin(runs["run_id"])]
    return replace(first, experiment="long", runs=runs.reset_index(drop=True), epochs=epochs)


def sides(first: Recorded, second: Recorded) -> tuple[Side, Side]:
    return Side(letter="A", text="claim-heads", recorded=first), Side(letter="B", text="long", recorded=second)


def test_differences_name_what_differs_and_nothing_else(first: Recorded, second: Recorded) -> None:
    assert [(one.what, one.arm, one.a, one.b) for one in setting_differences(first, second)] == [
        ("recipe.epochs", "all arms", "4", "8")
    ]
    assert [(one.what, one.a, one.b) for one in environment_differences(first, second)] == [
        ("Machine", "testhost", "other")
    ]
    assert setting_differences(first, first) == []
    assert environment_differences(first, first) == []


def test_a_setting_of_one_arm_is_its_own_difference_and_an_unrecorded_one_is_none(first: Recorded) -> None:
    runs = first.runs.copy()
    runs.loc[runs["arm"] == "plain-reduced", "network.norm"] = "none"
    other = replace(first, runs=runs.drop(columns="recipe.batch_size"))
    assert [(one.what, one.arm) for one in setting_differences(first, other)] == [("network.norm", "plain-reduced")]
    findings = compare(*sides(first, other)).findings
    assert "The settings differ in network.norm (A batch, B none)." in findings.found
    assert any("recipe.batch_size is recorded on one side only" in line for line in findings.open)


def test_arms_are_compared_by_welchs_test_and_corrected_together(first: Recorded, second: Recorded) -> None:
    comparison = compare(*sides(first, second))
    assert [one.effect for one in comparison.decisions] == ARMS[:3]
    one = comparison.decisions[0]
    own = [side.finished.loc[side.finished["arm"] == ARMS[0], schema.FINAL_TOP1] for side in (second, first)]
    reference = stats.ttest_ind(*own, equal_var=False)
    assert (one.estimate.value, one.estimate.p) == pytest.approx((0.03, reference.pvalue))
    assert [one.p_holm for one in comparison.decisions] == pytest.approx(
        _holm([each.estimate.p for each in comparison.decisions])
    )


def _holm(p: list[float]) -> list[float]:
    from statsmodels.stats.multitest import multipletests

    return list(multipletests(p, method="holm")[1])


def test_a_margin_counts_if_both_sides_name_it(first: Recorded) -> None:
    asked = replace(first, settings=Settings(margin=0.02))
    assert math.isnan(compare(*sides(first, asked)).decisions[0].margin)
    assert compare(*sides(asked, asked)).decisions[0].verdict == "equivalent"


def test_runs_on_both_sides_are_told_from_runs_that_were_trained_twice(first: Recorded) -> None:
    again = replace(first, runs=first.runs.assign(started=first.runs["started"] + 1))
    again.runs[schema.FINAL_TOP1] += 0.004
    assert compare(*sides(first, first)).repeated.trained_once == 12
    comparison = compare(*sides(first, again))
    assert comparison.repeated.differences == pytest.approx([0.004] * 12)
    assert (
        "12 runs with the same key were trained on each side; top-1 differs by at most 0.4 points."
        in comparison.findings.found
    )


def test_what_is_said_stands_alone(first: Recorded, second: Recorded) -> None:
    findings = compare(*sides(first, second)).findings
    assert findings.found[:4] == [
        "A is claim-heads: 12 finished runs of 4 arms, 3 seeds each, trained on fashion-mnist at 64 px for 4 epochs.",
        "B is long: 9 finished runs of 3 arms, 3 seeds each, trained on fashion-mnist at 64 px for 8 epochs.",
        "The settings differ in recipe.epochs (A 4, B 8).",
        "The environment differs in machine.",
    ]
    assert re.fullmatch(
        r"Top-1 of the arm [-a-z]+ was 3\.0 points higher on B than on A "
        r"\(95 % interval [\d.]+ to [\d.]+, 3 seeds\)\.",
        findings.found[4],
    )
    assert findings.open[0] == (
        "A and B differ in 1 setting and 1 fact of the environment at once: which of them is behind a difference in "
        "top-1 cannot be told."
    )
    assert findings.open[1] == ("plain-unreduced on A cannot be compared: the other side has no finished run of it.")


def test_sides_without_a_common_arm_are_still_told_apart(first: Recorded, second: Recorded) -> None:
    renamed = replace(second, runs=second.runs.assign(arm="new"), epochs=second.epochs.assign(arm="new"))
    comparison = compare(*sides(first, renamed))
    assert comparison.decisions == []
    assert any("no arm in common" in line for line in comparison.findings.found)
    assert comparison.tables["arms"].rows == []


def test_without_a_common_arm_the_settings_of_all_arms_are_compared(
    first: Recorded, second: Recorded, tmp_path: Path
) -> None:
    runs = second.runs.assign(arm="new", **{"network.aux": "none", "recipe.resolution": "48"})
    other = replace(second, runs=runs, epochs=second.epochs.assign(arm="new"))
    assert [(one.what, one.arm, one.a, one.b) for one in setting_differences(first, other)] == [
        ("network.aux", "all arms", "both/none", "none"),
        ("recipe.epochs", "all arms", "4", "8"),
        ("recipe.resolution", "all arms", "64", "48"),
    ]
    findings = compare(*sides(first, other)).findings
    assert any(
        "The settings of all arms together differ in network.aux (A both/none, B none), recipe.epochs (A 4, B 8) and "
        "recipe.resolution (A 64, B 48)." in line
        for line in findings.found
    )
    assert not any("behind a difference in top-1" in line for line in findings.open)
    page = write_comparison(*sides(first, other), out=tmp_path).read_text(encoding="utf-8")
    assert "compares the sides" not in page
    assert "Nothing that is recorded" not in page


def test_runs_of_both_experiments_under_other_names_are_said_to_be_so(first: Recorded) -> None:
    arms = {"plain-reduced": "baseline"}
    renamed = replace(first, experiment="long", runs=first.runs.replace({"arm": arms}))
    renamed = replace(renamed, runs=renamed.runs[renamed.runs["arm"] == "baseline"].reset_index(drop=True))
    found = compare(*sides(first, renamed)).findings.found
    assert "3 runs belong to both experiments, under different arm names." in found
    assert "12 runs belong to both sides." in compare(*sides(first, first)).findings.found


def test_one_seed_a_side_has_no_test(first: Recorded) -> None:
    one = replace(first, runs=first.runs[first.runs["seed"] == 0].reset_index(drop=True))
    comparison = compare(*sides(one, replace(one, runs=one.runs.assign(started=0.0))))
    assert {each.verdict for each in comparison.decisions} == {"no interval"}
    assert any("because an arm has a single run" in line for line in comparison.findings.found)


def test_the_files_of_a_comparison_are_those_of_a_report(first: Recorded, second: Recorded, tmp_path: Path) -> None:
    page = write_comparison(*sides(first, second), out=tmp_path)
    html = page.read_text(encoding="utf-8")
    assert html.index("What differs in the recorded settings") < html.index("The same arms beside each other: means")
    assert "deeper report claim-heads long" in html
    assert len(html) < 400_000
    markdown = (tmp_path / "results.md").read_text(encoding="utf-8")
    assert "| recipe.epochs | all arms | 4 | 8 |" in markdown
    assert len(pd.read_csv(tmp_path / "arms.csv")) == 6
    assert pd.read_csv(tmp_path / "differences.csv")["what"].tolist() == ["recipe.epochs", "Machine"]
    assert r"\toprule" in (tmp_path / "tables" / "arms.tex").read_text(encoding="utf-8")
    assert {path.name for path in (tmp_path / "figures").iterdir()} >= {"sides.svg", "sides.png", "top1-by-epoch.svg"}


def test_arms_that_share_a_colour_are_told_apart_and_the_page_says_so(first: Recorded, tmp_path: Path) -> None:
    names = dict(zip(first.runs["run_id"].head(5), "abcde", strict=True))
    runs, epochs = (frame[frame["run_id"].isin(names)] for frame in (first.runs, first.epochs))
    arms = [frame.assign(arm=frame["run_id"].map(names)) for frame in (runs, epochs)]
    five = replace(first, runs=arms[0].reset_index(drop=True), epochs=arms[1])
    page = write_comparison(*sides(five, five), out=tmp_path).read_text(encoding="utf-8")
    assert "The 10 arms share 8 colours: arms of one colour differ in marker and line style." in page
    legend = keys([f"arm {index}" for index in range(30)])
    assert len({(key.colour, key.mark, key.dashes) for key in legend}) == 30


def test_a_side_is_the_runs_of_a_machine_or_a_commit(tracking_uri: str) -> None:
    side = read_side("A", read_selection("grid@machine=testhost@commit=0123"), tracking_uri=tracking_uri, own=None)
    assert (len(side.recorded.runs), len(side.recorded.finished)) == (12, 11)
    with pytest.raises(AnalysisError, match="no run of 'grid' has the machine 'node9'; there are: testhost"):
        read_side("A", read_selection("grid@machine=node9"), tracking_uri=tracking_uri, own=None)
    with pytest.raises(AnalysisError, match="'broken' has no finished run"):
        read_side("A", read_selection("broken"), tracking_uri=tracking_uri, own=None)


@pytest.mark.parametrize("text", ["study@node1", "study@host=node1", "study@machine="])
def test_a_selection_that_cannot_be_read_says_the_forms(text: str) -> None:
    with pytest.raises(AnalysisError, match="give NAME, or NAME@machine=HOST"):
        read_selection(text)


def test_a_folder_of_records_may_have_any_name() -> None:
    selection = read_selection("study@plan=1f0c@records=/a@b/c=d")
    assert (selection.experiment, dict(selection.conditions)) == ("study", {"plan": "1f0c", "records": "/a@b/c=d"})
