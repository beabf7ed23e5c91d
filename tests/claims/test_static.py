"""Static measurements agree with the numbers that were counted by hand, to the unit."""

from __future__ import annotations

import pytest

from reproduce.claims.costs import operations, separable_conv1, table1
from reproduce.claims.ledger import load_ledger
from reproduce.claims.registry import STATIC
from reproduce.claims.structure import depth, heads_at_evaluation, receptive_field
from reproduce.claims.verdicts import Finding, Verdict, find

BY_HAND = {
    "reduce-example": {"direct weights": 819_200, "reduced weights": 50_688, "direct field": 5, "reduced field": 5},
    "parameters-to-vgg16": {"GoogLeNet": 6_998_552, "VGG-16": 138_357_544},
    "parameters-to-alexnet": {"GoogLeNet": 6_998_552, "AlexNet": 61_100_840},
    "auxiliary-parameters": {"heads": 6_379_728, "training network": 13_378_280},
    "connected-head": {"removed": 7 * 7 * 1024 * 1024 + 1024},
    "operations": {"multiply-adds": 1_582_671_872, "with separable conv1": 1_498_677_248},
    "table-1": {"separable conv1 weights": 2_712},
    "port": {"without heads": 6_624_904, "with heads": 13_004_888, "differing tensors": 0},
    "dropout": {"before fc1": 0.0, "before fc2": 0.7, "before fc1, option": 0.5, "before fc2, option": 0.5},
    "heads-alike": {"layers": 5, "differing layers": 0, "first inputs": 512, "second inputs": 528},
}
FAILING = {"S-params-alexnet", "S-dropout", "P-table1", "P-receptive-field"}
TABLE1_WEIGHTS = {
    "conv1": 9_408, "conv2": 114_688, "3a": 163_328, "3b": 388_096, "4a": 375_552, "4b": 448_512, "4c": 509_440,
    "4d": 604_672, "4e": 867_328, "5a": 1_042_432, "5b": 1_442_816, "linear": 1_024_000,
}  # fmt: skip


@pytest.fixture(scope="module")
def findings() -> dict[str, Finding]:
    ledger = load_ledger()
    static = [claim for claim in ledger.claims if claim.kind == "static" and claim.measurement]
    return {
        claim.id: find(claim, STATIC[str(claim.measurement)]()) for claim in static if claim.id != "S-aux-inference"
    }


@pytest.mark.parametrize("name", BY_HAND)
def test_counts_are_those_made_by_hand(name: str) -> None:
    values = STATIC[name]().values
    assert {key: values[key] for key in BY_HAND[name]} == BY_HAND[name]


def test_weights_of_table_1() -> None:
    values = table1().values
    assert {row: values[f"{row} parameters"] * 1024 for row in TABLE1_WEIGHTS} == TABLE1_WEIGHTS  # type: ignore[operator]


def test_which_claims_hold(findings: dict[str, Finding]) -> None:
    verdicts = {name: finding.verdict for name, finding in findings.items()}
    assert {name for name, verdict in verdicts.items() if verdict is Verdict.FAILS} == FAILING
    assert set(verdicts.values()) == {Verdict.HOLDS, Verdict.FAILS}


def test_rows_of_table_1_that_do_not_follow_from_its_layer_sizes(findings: dict[str, Finding]) -> None:
    deviating = {part.name: part for part in findings["P-table1"].parts if part.verdict is Verdict.FAILS}
    assert set(deviating) == {
        "conv1 parameters", "conv1 operations", "3b parameters", "4a parameters", "4a operations", "4b parameters",
        "4c parameters", "4d parameters", "4e parameters", "5a parameters", "5a operations", "5b parameters",
    }  # fmt: skip
    assert deviating["5a parameters"].deviation == pytest.approx(1018 / 1072 - 1)
    assert all(part.note for part in deviating.values())


@pytest.mark.parametrize(
    ("row", "places", "printed", "consistent"),
    [("3b", 28**2, 304, False), ("4a", 14**2, 73, True), ("4b", 14**2, 88, True), ("4c", 14**2, 100, False),
     ("4d", 14**2, 119, False), ("4e", 14**2, 170, False), ("5a", 7**2, 54, True), ("5b", 7**2, 71, False)],
)  # fmt: skip
def test_notes_say_whether_a_row_of_table_1_agrees_with_itself(
    findings: dict[str, Finding], row: str, places: int, printed: int, consistent: bool
) -> None:
    (part,) = (part for part in findings["P-table1"].claim.parts if part.of == f"{row} parameters")
    assert isinstance(part.expected, int)
    assert (abs(part.expected * 1024 * places / 1e6 - printed) <= 0.5) == consistent
    assert ("agrees with itself" if consistent else "contradicts itself") in part.note


def test_conv1_of_table_1_is_printed_as_a_depthwise_separable_convolution(findings: dict[str, Finding]) -> None:
    by_hand = 3 * 8 * 7 * 7 + 3 * 8 * 64
    assert separable_conv1() == by_hand == 2_712
    assert round(by_hand / 1e3, 1) == 2.7
    assert round(by_hand * 112**2 / 1e6, 2) == 34.02
    assert "2\u202f712 weights and 34.02 M operations" in findings["P-table1"].evidence


def test_1500_million_operations_are_those_of_table_1_and_not_of_the_printed_layer_sizes(
    findings: dict[str, Finding],
) -> None:
    printed = [part.expected for part in findings["P-table1"].claim.parts if part.of.endswith("operations")]
    assert sum(printed) == 1502  # type: ignore[arg-type]
    values = operations().values
    assert [round(float(values[name]) / 1e9, 1) for name in ("multiply-adds", "with separable conv1")] == [1.6, 1.5]  # type: ignore[arg-type]


def test_both_rates_of_the_dropout_conflict_are_reported(findings: dict[str, Finding]) -> None:
    verdicts = {part.name: part.verdict for part in findings["S-dropout"].parts}
    assert verdicts["text of S"] is verdicts["option, before the first linear layer"] is Verdict.HOLDS
    for place in ("first", "second"):
        assert verdicts[f"listing of S, before the {place} linear layer"] is Verdict.FAILS


def test_heads_cost_nothing_at_evaluation() -> None:
    values = heads_at_evaluation().values
    assert (values["parameters more"], values["multiply-adds more"], values["output"]) == (0, 0, "equal")
    assert values["latency ratio"] == pytest.approx(1, abs=0.2)  # wider than the ledger's: the machine may be busy


def test_depth_is_counted() -> None:
    assert depth().values == {"layers with parameters": 22, "with pools": 27, "building blocks": 92}


def test_the_whole_receptive_field_is_found_from_gradients() -> None:
    assert receptive_field().values == {"recursion": 715, "recursion less gradients": 0}
