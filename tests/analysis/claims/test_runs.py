"""Empirical claims on frames with known effects: verdicts follow the effect, and noise is not taken for one."""

from __future__ import annotations

import math
import random
import re
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pandas as pd
import pytest

from analysis.claims.decide import decide
from analysis.effects import effects
from analysis.frames import Recorded
from analysis.settings import Settings
from analysis.tables import p_value
from reproduce import schema
from reproduce.claims.design import Change
from reproduce.claims.ledger import load_ledger
from reproduce.claims.verdicts import Finding, Verdict

CLAIMS = {claim.id: claim for claim in load_ledger().claims}
HOLDS, FAILS = Verdict.HOLDS, Verdict.FAILS
NOT_ENOUGH, NOT_MEASURED, NOT_YET = Verdict.NOT_ENOUGH, Verdict.NOT_MEASURED, Verdict.NOT_YET
EPOCHS = 8
PARAMS = {
    "network.aux": "none",
    "network.reduction": "reduced",
    "network.branches": "mixed",
    "network.head": "avgpool",
    "network.classes": "10",
    "recipe.resolution": "64",
    "recipe.epochs": str(EPOCHS),
    "recipe.averaging": None,
    "data.path": "imagenette",
    "data.train_fraction": "1.0",
}

Arm = dict[str, Any]
"""The params and metrics of an arm that differ from the default; `curve` is the gain of top-1 per epoch."""


def recorded(*arms: Arm, seeds: Sequence[int] = (0, 1, 2), noise: float = 0.001) -> Recorded:
    """Frames as `analysis.frames.read` gives them. `shift` moves each further seed, `noise` each run."""
    runs: list[dict[str, Any]] = []
    epochs: list[dict[str, Any]] = []
    for number, arm in enumerate(arms):
        for seed in seeds:
            drawn = random.Random(f"{number} {seed}").gauss(0, noise)
            top1 = arm.get("top1", 0.6) + arm.get("shift", 0.0) * seed + drawn
            metrics = {
                schema.FINAL_TOP1: top1,
                schema.FINAL_TOP5: 1 - 0.354 * (1 - top1),
                schema.FINAL_TRAIN_TOP1_PLAIN: top1 + arm.get("gap", 0.05) + drawn / 2,
                schema.FINAL_IMAGES_PER_S: arm.get("speed", 300.0) * (1 + drawn),
                schema.COST_PARAMETERS: arm.get("parameters", 6e6),
                schema.COST_MACS: arm.get("macs", 32e6),
                schema.COST_MACS_TRAINING: arm.get("macs", 32e6),
                schema.CLUSTER_WITHIN: 0.3,
                schema.CLUSTER_ACROSS: 0.2,
                schema.CLUSTER_DIFFERENCE: arm.get("clusters", 0.1) + drawn,
                schema.CLUSTER_PERMUTED_95: 0.004,
                schema.CLUSTER_UNTRAINED: 0.05,
            }
            run = {"run_id": f"{number}-{seed}", "arm": str(number), "seed": seed, "outcome": schema.FINISHED}
            runs.append({**run, **PARAMS, **{k: v for k, v in arm.items() if "." in k}, **metrics})
            for epoch in range(EPOCHS):
                values = {
                    schema.VAL_TOP1: top1 - arm.get("curve", 0.02) * (EPOCHS - 1 - epoch),
                    schema.PEAK_MEMORY_GIB: arm.get("macs", 32e6) / 32e6 + drawn,
                    f"{schema.GRADIENT_NORM}stem": arm.get("stem", 0.5) * arm.get("gradient", 1.0) * (1 + 2 * drawn),
                    **{f"{schema.GRADIENT_NORM}{s}": arm.get("gradient", 1.0) * (1 + drawn) for s in "345"},
                }
                epochs.append({"run_id": run["run_id"], "arm": run["arm"], "seed": seed, "epoch": epoch, **values})
    return Recorded(
        experiment="made", experiment_id="1", description="", runs=pd.DataFrame(runs), epochs=pd.DataFrame(epochs)
    )


def decided(claim: str, *arms: Arm, seeds: Sequence[int] = (0, 1, 2), noise: float = 0.001) -> Finding:
    return decide(CLAIMS[claim], recorded(*arms, seeds=seeds, noise=noise))


def heads(none: float, aux1: float, aux2: float, both: float) -> list[Arm]:
    named = {"none": none, "aux1": aux1, "aux2": aux2, "both": both}
    return [{"network.aux": aux, "top1": top1} for aux, top1 in named.items()]


def reductions(reduced: Arm, unreduced: Arm) -> list[Arm]:
    costly = {"network.reduction": "unreduced", "parameters": 24e6, "macs": 90e6, "speed": 100.0}
    return [reduced, {**costly, **unreduced}]


def branches(mixed: float, *singles: float) -> list[Arm]:
    kernels = ("mixed", "1x1", "3x3", "5x5")
    return [{"network.branches": kernel, "top1": top1} for kernel, top1 in zip(kernels, (mixed, *singles), strict=True)]


def fractions(*, of_parameters: float, of_data: float) -> list[Arm]:
    return [
        {
            "network.reduction": reduction,
            "parameters": parameters,
            "data.train_fraction": fraction,
            "gap": 0.1 + of_parameters * (parameters > 6e6) + of_data * (fraction == "0.25"),
        }
        for reduction, parameters in (("reduced", 6e6), ("unreduced", 24e6))
        for fraction in ("1.0", "0.25")
    ]


IMAGENET = {"network.classes": "1000", "data.path": "imagenet", "shift": 0.0}
CASES: list[tuple[str, list[Arm], Verdict]] = [
    ("S-aux-helps", heads(0.60, 0.62, 0.61, 0.63), HOLDS),
    ("S-aux-helps", heads(0.63, 0.62, 0.61, 0.60), FAILS),
    ("P-aux-half-percent", heads(0.600, 0.604, 0.605, 0.605), HOLDS),
    ("P-aux-half-percent", heads(0.60, 0.604, 0.605, 0.63), FAILS),
    ("P-aux-half-percent", heads(0.60, 0.59, 0.58, 0.605), FAILS),
    ("S-vanishing", [{"network.aux": "none"}, {"network.aux": "both", "gradient": 1.4}], HOLDS),
    ("S-vanishing", [{"network.aux": "none"}, {"network.aux": "both", "gradient": 0.8}], FAILS),
    ("S-vanishing", [{"network.aux": "none", "stem": 2.0}, {"network.aux": "both", "stem": 2.8}], FAILS),
    ("P-reduce", reductions({"top1": 0.60}, {"top1": 0.603}), HOLDS),
    ("P-reduce", reductions({"top1": 0.60}, {"top1": 0.63}), FAILS),
    ("S-overfit", fractions(of_parameters=0.05, of_data=0.1), HOLDS),
    ("S-overfit", fractions(of_parameters=-0.05, of_data=0.1), FAILS),
    ("S-overfit", fractions(of_parameters=0.05, of_data=-0.1), FAILS),
    ("S-multiscale", branches(0.64, 0.5, 0.60, 0.61), HOLDS),
    ("S-multiscale", branches(0.60, 0.5, 0.58, 0.62), FAILS),
    ("S-clustered", branches(0.60, 0.5, 0.58, 0.62), NOT_MEASURED),  # its second half
    ("S-clustered", [{"clusters": 0.02}, {"network.branches": "3x3"}], FAILS),
    ("P-avgpool", [{"top1": 0.606}, {"network.head": "fc", "top1": 0.6}], HOLDS),
    ("P-avgpool", [{"top1": 0.59}, {"network.head": "fc", "top1": 0.6}], FAILS),
    ("C-caffe", [{**IMAGENET, "top1": 0.687}], HOLDS),
    ("C-caffe", [{**IMAGENET, "top1": 0.667}], FAILS),
    ("P-recipe", [{**IMAGENET, "top1": 0.7155}], HOLDS),
    ("P-recipe", [{**IMAGENET, "top1": 0.687}], FAILS),
]


@pytest.mark.parametrize(("claim", "arms", "verdict"), CASES)
def test_the_verdict_follows_the_effect_and_the_evidence_names_data_and_resolution(
    claim: str, arms: list[Arm], verdict: Verdict
) -> None:
    finding = decided(claim, *arms)
    assert finding.verdict is verdict
    data = arms[0].get("data.path", "imagenette")
    assert f"on {data} at 64 px" in finding.evidence
    assert re.search(r"n = (\d+ \()?3", finding.evidence)


@pytest.mark.parametrize(
    ("claim", "arms"),
    [
        ("S-aux-helps", heads(0.60, 0.60, 0.60, 0.605)),
        ("S-multiscale", branches(0.605, 0.60, 0.60, 0.60)),
        ("P-avgpool", [{"top1": 0.606}, {"network.head": "fc", "top1": 0.6}]),
    ],
)
def test_without_a_clear_difference_more_seeds_are_asked_for(claim: str, arms: list[Arm]) -> None:
    noisy = decided(claim, *arms, noise=0.02)
    assert noisy.verdict is NOT_ENOUGH
    assert "(includes 0)" in noisy.measured
    more = max(part.more for part in noisy.parts)
    assert noisy.evidence.startswith(f"{more} more seed" if more < 1000 else "over 1000")


def test_a_single_seed_has_no_interval_and_two_more_are_asked_for() -> None:
    finding = decided("S-aux-helps", *heads(0.5, 0.6, 0.6, 0.7), seeds=[0])
    assert finding.verdict is NOT_ENOUGH
    assert finding.evidence.startswith("2 more seeds are needed")
    assert "no interval" in finding.measured


@pytest.mark.parametrize(
    ("claim", "top1", "measured"),
    [("C-caffe", 0.667, r"top-1 68\.\d.*, top-5 88\.9"), ("P-recipe", 0.6955, r"top-5 error 10\.\d")],
)
def test_numbers_of_imagenet_are_not_confirmed_on_other_data(claim: str, top1: float, measured: str) -> None:
    finding = decided(claim, {"top1": top1, "shift": 0.02})
    assert finding.verdict is NOT_MEASURED
    assert re.search(f"on imagenette at 64 px the runs reach {measured}", finding.evidence)


def test_pooling_is_not_decided_where_there_is_nothing_to_pool() -> None:
    arms = [{"recipe.resolution": "32"}, {"recipe.resolution": "32", "network.head": "fc"}]
    finding = decided("P-avgpool", *arms)
    assert finding.verdict is NOT_YET
    assert "at 32 px there is hardly anything to pool; runs at 64 px or more decide this claim" in finding.evidence


def test_differences_that_agree_up_to_rounding_have_no_interval_and_no_verdict() -> None:
    finding = decided("S-aux-helps", *heads(0.60, 0.62, 0.61, 0.63), noise=0.0)
    assert finding.verdict is NOT_ENOUGH
    assert "+3.0 points (no interval)" in finding.measured
    assert "nan" not in finding.evidence + finding.measured + finding.parts[0].measured


def without(recorded: Recorded, *metrics: str) -> Recorded:
    return replace(recorded, runs=recorded.runs.drop(columns=list(metrics)))


@pytest.mark.parametrize("metric", [schema.CLUSTER_DIFFERENCE])
def test_a_metric_that_no_run_has_recorded_is_named(metric: str) -> None:
    finding = decide(CLAIMS["S-clustered"], without(recorded(*branches(0.6, 0.6, 0.6, 0.6)), metric))
    assert finding.verdict is NOT_YET
    assert f"no run has recorded {metric}" in finding.evidence


@pytest.mark.parametrize("norm", [math.inf, math.nan, 0.0])
def test_gradient_norms_without_a_logarithm_are_left_out_and_counted(norm: float) -> None:
    made = recorded({"network.aux": "none"}, {"network.aux": "both", "gradient": 1.4})
    stem = f"{schema.GRADIENT_NORM}stem"
    made.epochs.loc[[0, 3], stem] = norm
    finding = decide(CLAIMS["S-vanishing"], replace(made, not_finite={stem: 2}))
    assert "both heads over none 1." in finding.measured
    assert not re.search(r"\b(nan|inf)\b", finding.measured + finding.evidence)
    assert f"{stem} was not finite in 2 epochs" in finding.evidence


def test_accuracy_at_equal_compute_is_read_from_the_epochs_of_the_costlier_runs() -> None:
    arms = reductions({"top1": 0.6}, {"top1": 0.6, "macs": 64e6, "curve": 0.01})
    finding = decided("P-reduce", *arms, noise=1e-6)
    assert "the end of their schedule, +4.0 points" in finding.evidence  # after 4 of 8 epochs, 4 points below the end


@pytest.mark.parametrize(
    ("claim", "arms", "reason"),
    [
        ("S-aux-helps", [{"network.aux": "both"}], "finished runs that differ in network.aux (both and none)"),
        ("P-reduce", [{}], "finished runs that differ in network.reduction (reduced and unreduced)"),
        ("S-overfit", [{}, {"parameters": 2e7, "network.reduction": "unreduced"}], "the same fraction of the images"),
        ("S-multiscale", branches(0.6, 0.6, 0.6, 0.6)[:3], "that differ in network.branches (mixed and 5x5)"),
    ],
)
def test_missing_arms_are_named(claim: str, arms: list[Arm], reason: str) -> None:
    finding = decided(claim, *arms)
    assert finding.verdict is NOT_YET
    assert reason in finding.evidence


def test_pairs_differ_in_nothing_else() -> None:
    finding = decided("S-aux-helps", {"network.aux": "none"}, {"network.aux": "both", "recipe.epochs": "16"})
    assert finding.verdict is NOT_YET
    assert "and in nothing else" in finding.evidence


def test_several_pairs_of_arms_are_averaged_and_the_seeds_of_an_arm_are_counted() -> None:
    grid: list[Arm] = [
        {"network.aux": aux, "network.reduction": reduction, "top1": 0.6 + 0.02 * (aux == "both")}
        for aux in ("none", "both")
        for reduction in ("reduced", "unreduced")
    ]
    finding = decided("S-aux-helps", *grid)
    assert "n = 12 (3 seeds)" in finding.evidence


def test_a_claim_has_the_estimate_of_the_report_and_says_what_the_report_decides() -> None:
    made = recorded(*heads(0.60, 0.62, 0.61, 0.63), noise=0.01)
    (part,) = decide(CLAIMS["S-aux-helps"], made).parts
    shown = effects(made.finished, schema.FINAL_TOP1).set_index("contrast").loc["both − none"]
    assert isinstance(part.value, dict)
    expected = [100 * shown["difference"], 100 * shown["low"], 100 * shown["high"], shown["n"]]
    assert [part.value[name] for name in ("value", "low", "high", "n")] == pytest.approx(expected)
    decided_there = f"the report, on both − none: {shown['verdict']} (two-sided p {p_value(shown['p'])}"
    assert decided_there in decide(CLAIMS["S-aux-helps"], made).evidence


def test_a_paired_experiment_has_paired_claims() -> None:
    made = recorded(*[{**arm, "shift": 0.05} for arm in heads(0.60, 0.62, 0.61, 0.63)])
    assert decide(CLAIMS["S-aux-helps"], made).verdict is NOT_ENOUGH
    assert decide(CLAIMS["S-aux-helps"], replace(made, settings=Settings(paired=True))).verdict is HOLDS


def test_a_claim_judged_by_another_method_says_so_and_quotes_the_report_as_it_is() -> None:
    """The design has fewer arms and its own way of comparing; the report's verdict is still that of its page."""
    arms: list[Arm] = [{**arm, "shift": 0.05} for arm in heads(0.60, 0.62, 0.61, 0.63)]
    made = recorded(*arms, noise=0.01)
    finding = by_design("S-aux-helps", made, arms=("none", "both"), paired=True)
    runs = made.runs.assign(arm=made.runs["network.aux"])
    shown = effects(runs, schema.FINAL_TOP1).set_index("contrast").loc["both − none"]
    assert "compared seed by seed, as its design says, where the report compares arm by arm" in finding.evidence
    assert (
        f"the report, on both − none: {shown['verdict']} (two-sided p {p_value(shown['p'])}, "
        f"{p_value(shown['p_holm'])} after Holm's correction over 4 contrasts)"
    ) in finding.evidence
    assert "where the report" not in by_design("S-aux-helps", made, paired=False).evidence


def test_every_claim_has_a_measurement() -> None:
    """But for those that only other networks could decide."""
    assert [claim.id for claim in CLAIMS.values() if claim.measurement is None] == ["P-faster"]


def by_design(claim: str, made: Recorded, **changes: Any) -> Finding:
    """Decide a claim by its design, from runs of its experiment whose arms are named after their values."""
    row = CLAIMS[claim]
    assert row.design is not None
    names = made.runs["network.aux"]
    runs = made.runs.assign(arm=names, started=changes.pop("started", 0.0))
    epochs = made.epochs.assign(arm=made.epochs["run_id"].map(dict(zip(runs["run_id"], names, strict=True))))
    row = row.model_copy(update={"design": row.design.model_copy(update=changes)})
    return decide(row, replace(made, experiment=str(row.experiment), runs=runs, epochs=epochs))


CLEAR, UNCLEAR = heads(0.60, 0.62, 0.61, 0.63), heads(0.60, 0.60, 0.60, 0.605)


def test_before_the_first_look_nothing_is_tested() -> None:
    finding = by_design("S-aux-helps", recorded(*CLEAR, seeds=[0, 1]))
    assert finding.verdict is NOT_ENOUGH
    assert finding.evidence.startswith("the next look of the design is at 3 seeds, 2 seeds are complete; ")


def test_seeds_between_two_looks_change_nothing() -> None:
    verdicts = [by_design("S-aux-helps", recorded(*UNCLEAR, seeds=range(n), noise=0.02)) for n in (3, 5)]
    assert verdicts[0].parts == verdicts[1].parts
    assert "the next look of the design is at 6 seeds, 5 seeds are complete" in verdicts[1].evidence


def test_a_row_that_the_last_look_does_not_decide_is_undecided() -> None:
    """No further runs are asked for, so that it does not say that there are not enough."""
    finding = by_design("P-aux-half-percent", recorded(*UNCLEAR, seeds=range(6), noise=0.02))
    assert finding.evidence.startswith("undecided at 6 seeds, the last look of the design; ")
    assert finding.verdict is Verdict.UNDECIDED
    assert {part.verdict for part in finding.parts} == {Verdict.UNDECIDED}
    assert set(finding.halves.values()) == {Verdict.UNDECIDED}


def test_a_row_that_was_decided_at_a_look_keeps_its_verdict() -> None:
    made = recorded(*CLEAR, seeds=range(6))
    later = made.runs["seed"].ge(3) & made.runs["network.aux"].eq("both")
    made.runs.loc[later, schema.FINAL_TOP1] = 0.1
    finding = by_design("S-aux-helps", made)
    assert finding.verdict is HOLDS
    assert "at the level 0.0155 (two-sided 0.031) at the first 3 of 6 seeds" in finding.evidence


def test_further_arms_have_to_be_complete_before_a_look() -> None:
    finding = by_design("S-aux-helps", recorded(*CLEAR), arms=("none", "both"), awaits=("batch",))
    assert "3 seeds, 0 seeds are complete" in finding.evidence


def test_a_design_that_was_written_or_changed_after_its_runs_says_so() -> None:
    made = recorded(*CLEAR)
    before, after = (
        moment.timestamp() for moment in (datetime(2026, 1, 1, tzinfo=UTC), datetime(2027, 1, 1, tzinfo=UTC))
    )
    assert by_design("S-aux-helps", made, started=before).design.endswith("design written after its runs (2026-01-01)")
    change = Change(written=datetime(2027, 2, 1, tzinfo=UTC), what="a wider margin")
    assert by_design("S-aux-helps", made, started=after).design.endswith(": before its runs")
    assert by_design("S-aux-helps", made, started=after, changes=(change,)).design.endswith(
        "changed after its runs began: 2027-02-01, a wider margin"
    )


def test_a_verdict_carries_its_scope_and_the_floor_of_the_test_images() -> None:
    arms = [{**arm, "network.norm": "batch"} for arm in CLEAR]
    made = recorded(*arms)
    made.runs[schema.FINAL_TOP1] = made.runs[schema.FINAL_TOP1].mul(3925).round().div(3925)
    finding = decide(CLAIMS["S-aux-helps"], made)
    assert finding.told == "holds at 64 px, 8 epochs, with normalisation"
    assert "3925 validation images: binomial standard deviation 0.8 points at 61 %" in finding.evidence


def test_a_verdict_names_both_halves_of_its_claim() -> None:
    finding = decided("S-vanishing", {"network.aux": "none", "stem": 2.0}, {"network.aux": "both", "stem": 2.8})
    halves = "the gradient fades: does not hold; the heads push gradient into the lower layers: holds"
    assert finding.told == f"does not hold at 64 px, 8 epochs ({halves})"


def test_the_weight_of_the_loss_is_taken_out_of_the_gradients_ratio() -> None:
    arms = [{"network.aux": aux, "network.aux_weight": "0.3", "gradient": g} for aux, g in (("none", 1), ("both", 1.6))]
    assert "in the stem 1.00 times after division by the weight of the loss with heads, 1.6" in (
        decided("S-vanishing", *arms).evidence
    )


def test_dropout_is_judged_before_the_main_classifier_and_in_the_heads() -> None:
    arms: list[Arm] = [
        {"network.dropout": "0.4", "network.aux_dropout": "0.7", "top1": 0.65},
        {"network.dropout": "0.0", "network.aux_dropout": "0.7", "top1": 0.62},
        {"network.dropout": "0.4", "network.aux_dropout": "0.0", "top1": 0.66},
        {"network.dropout": "0.4", "network.aux_dropout": "0.5", "top1": 0.65},
    ]
    finding = decided("P-dropout", *arms)
    assert finding.halves == {"before the main classifier": HOLDS, "in the heads": FAILS}


def test_a_field_that_older_runs_lack_does_not_part_them() -> None:
    made = recorded(*CLEAR)
    rate = made.runs["seed"].map({0: None, 1: "0.0", 2: "0.0"})
    finding = decide(CLAIMS["S-aux-helps"], replace(made, runs=made.runs.assign(**{"network.aux_input_dropout": rate})))
    assert "n = 6 (3 seeds)" in finding.evidence
