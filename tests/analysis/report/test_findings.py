"""Each kind of generated sentence, as a reader gets it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import pandas as pd
import pytest
from scipy import stats

from analysis.effects import decide_effects
from analysis.frames import Recorded
from analysis.report.findings import Findings, write_findings
from analysis.settings import Settings
from analysis.tables import interval, points
from reproduce import schema

AUX, REDUCTION = "network.aux", "network.reduction"
Cells = Mapping[str, tuple[Sequence[str], Sequence[float | str]]]


def narrow(value: float) -> list[float]:
    return [value - 0.0002, value, value + 0.0002]


def wide(value: float) -> list[float]:
    return [value - 0.02, value, value + 0.02]


def findings(
    cells: Cells,
    fields: Sequence[str] = (AUX,),
    *,
    margin: float | None = None,
    losses: Mapping[str, Sequence[float]] = {},
    epochs_asked: int = 6,
) -> Findings:
    """Write the findings of arms with levels of fields and, for each seed, a top-1 or the outcome of a run without."""
    runs, epochs = [], []
    for arm, (levels, values) in cells.items():
        for seed, value in enumerate(values):
            outcome = "finished" if not isinstance(value, str) else "failed" if value == "diverged" else value
            run_id = None if outcome == "waiting" else f"{arm}{seed}"
            error = "NotFiniteLoss: loss is nan" if value == "diverged" else None
            runs.append(
                {"run_id": run_id, "arm": arm, "seed": seed, "outcome": outcome, "error": error}
                | {schema.FINAL_TOP1: math.nan if isinstance(value, str) else value, "network.norm": "batch"}
                | {"data.path": "imagenette", "recipe.resolution": "48", "recipe.epochs": str(epochs_asked)}
                | dict(zip(fields, levels, strict=True))
            )
            for epoch, loss in enumerate(losses.get(f"{arm}{seed}", (2.0, 1.0)) if run_id else ()):
                epochs.append(
                    {"run_id": run_id, "arm": arm, "seed": seed, "epoch": epoch, schema.TRAIN_LOSS_MAIN: loss}
                )
    recorded = Recorded(
        experiment="x",
        experiment_id="1",
        description="",
        runs=pd.DataFrame(runs),
        epochs=pd.DataFrame(epochs),
        settings=Settings(margin=margin),
    )
    finished = recorded.finished
    return write_findings(
        recorded, [] if finished.empty else decide_effects(finished, schema.FINAL_TOP1, recorded.settings)
    )


def grid(values: Sequence[Sequence[float]]) -> Cells:
    cells = [(aux, reduction) for reduction in ("reduced", "unreduced") for aux in ("both", "none")]
    return {"-".join(cell): (cell, own) for cell, own in zip(cells, values, strict=True)}


REACH = (
    "The intervals cover other seeds of the same training only. Nothing is shown for other data, image sizes or "
    "lengths of training; nor for networks without normalisation, such as the paper's."
)


def test_one_epoch_is_not_told_as_several() -> None:
    found = findings(grid([narrow(0.70), narrow(0.68), narrow(0.75), narrow(0.73)]), (AUX, REDUCTION), epochs_asked=1)
    assert found.found[0].endswith("trained on imagenette at 48 px for 1 epoch.")


def test_clear_effects_of_a_grid() -> None:
    found = findings(grid([narrow(0.70), narrow(0.68), narrow(0.75), narrow(0.73)]), (AUX, REDUCTION))
    assert found.found == [
        "12 finished runs of 4 arms, 3 seeds each, trained on imagenette at 48 px for 6 epochs.",
        "In this training, the auxiliary classifiers raised top-1 by 2.0 points (95 % interval 1.97 to 2.03, 3 seeds).",
        "The 1x1 reductions cost 5.0 points (95 % interval 4.97 to 5.03, 3 seeds).",
        "It is not clear whether the effect of auxiliary classifiers on top-1 depends on 1x1 reductions (0.00 points, "
        "95 % interval −0.05 to 0.05, 3 seeds).",
    ]
    assert found.open[-1] == REACH


def test_equivalent_arms_of_a_grid() -> None:
    found = findings(grid([narrow(0.7), narrow(0.7001)] * 2), (AUX, REDUCTION), margin=0.005)
    assert found.found[1:] == [
        "In this training, the auxiliary classifiers changed top-1 by no more than the margin of 0.5 points (−0.01 "
        "points, 95 % interval −0.04 to 0.02, 3 seeds; p < 0.001 for the two one-sided tests).",
        "The 1x1 reductions changed top-1 by no more than the margin of 0.5 points (0.00 points, 95 % interval −0.03 "
        "to 0.03, 3 seeds; p < 0.001 for the two one-sided tests).",
        "The effect of auxiliary classifiers on top-1 does not depend on 1x1 reductions by more than the margin of "
        "0.5 points (0.00 points, 95 % interval −0.05 to 0.05, 3 seeds).",
    ]
    assert found.open == [REACH]


def test_an_effect_that_is_not_clear_says_what_could_have_been_found() -> None:
    found = findings({"a": (("both",), wide(0.7)), "b": (("none",), wide(0.705))}, margin=0.005)
    assert found.found[1] == (
        "In this training, no clear effect of the auxiliary classifiers on top-1 was found (−0.5 points, 95 % interval "
        "−5.0 to 4.0, 3 seeds)."
    )
    assert found.open[:2] == [
        "A difference that is not clear is not shown to be absent: with this spread and these seeds, a true difference "
        "of 6.9 points would be found with a probability of 80 %.",
        "Finding 0.5 points, the margin of this experiment, takes about 253 seeds an arm.",
    ]


def test_one_seed_shows_nothing_for_other_seeds() -> None:
    found = findings(grid([[0.7], [0.69], [0.7], [0.71]]), (AUX, REDUCTION))
    assert found.found[1:] == [
        "In this training, top-1 was the same with the auxiliary classifiers; an arm has a single run, so that another "
        "seed may show the opposite.",
        "Top-1 was 1.0 point lower with the 1x1 reductions; an arm has a single run, so that another seed may show the "
        "opposite.",
        "Whether the effect of auxiliary classifiers on top-1 depends on 1x1 reductions cannot be tested, because an "
        "arm has a single run.",
    ]
    assert found.open == [
        "Each arm has a single run: none of this is shown for other seeds, other data, image sizes or lengths of "
        "training; nor for networks without normalisation, such as the paper's."
    ]


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        (
            [0.97, 0.99, 1.0],
            "The arm a reached a top-1 of 98.7 % (95 % interval 94.9 to 100.0, cut at 100 %, 3 seeds).",
        ),
        ([0.6, 0.62, 0.64], "The arm a reached a top-1 of 62.0 % (95 % interval 57.0 to 67.0, 3 seeds)."),
        ([0.7], "The arm a reached a top-1 of 70.0 % (1 seed; one run has no interval)."),
        (
            [0.7, 0.7],
            "The arm a reached a top-1 of 70.0 % (2 seeds; without an interval, because the seeds agree exactly).",
        ),
    ],
)
def test_one_arm(values: list[float], sentence: str) -> None:
    assert findings({"a": (("both",), values)}).found[1] == sentence


def test_arms_that_are_no_grid_are_compared_with_the_baseline_by_verdict() -> None:
    cells: Cells = {
        "baseline": (("both", "reduced"), narrow(0.7)),
        "lower": (("none", "reduced"), narrow(0.65)),
        "noisy": (("both", "unreduced"), wide(0.71)),
        "equal": (("aux1", "reduced"), narrow(0.7001)),
        "once": (("aux1", "naive"), [0.8]),
    }
    found = findings(cells, (AUX, REDUCTION), margin=0.005)
    assert found.found[1:] == [
        "In this training, top-1 of the arm lower was 5.0 points lower than that of baseline (95 % interval 4.95 to "
        "5.05, 3 seeds).",
        "The arm equal differed from baseline by no more than the margin of 0.5 points (+0.01 points, 95 % interval "
        "−0.04 to 0.06, 3 seeds).",
        "The arm noisy did not differ clearly from baseline (+1.0 points, 95 % interval −4.0 to 6.0, 3 seeds).",
        "The arm once cannot be tested for a difference from baseline, because an arm has a single run (+10.0 points).",
    ]
    assert found.open[0] == (
        "The arms do not cross auxiliary classifiers and 1x1 reductions: each arm is compared with baseline alone, and "
        "differences to other arms are not tested."
    )


def test_a_clear_difference_that_is_rounded_to_nothing_still_has_a_size() -> None:
    values = [[0.70000, 0.70001, 0.70002], [0.70040, 0.70041, 0.70042], [0.60, 0.61, 0.62]]
    cells: Cells = {
        name: ((aux, reduction), own)
        for (name, aux, reduction), own in zip(
            (("baseline", "both", "reduced"), ("near", "none", "reduced"), ("far", "none", "naive")),
            values,
            strict=True,
        )
    }
    sentences = findings(cells, (AUX, REDUCTION)).found
    assert any("arm near was less than 0.1 points higher than that of baseline" in text for text in sentences)


def test_runs_that_diverged_failed_or_wait() -> None:
    cells: Cells = {
        "a": (("both",), [0.7, 0.71, "diverged"]),
        "b": (("none",), [0.6, 0.61, 0.62]),
        "c": (("aux1",), ["diverged", "failed", "waiting"]),
    }
    assert findings(cells, losses={"b1": [2.0, 3.0]}).open[:4] == [
        "The loss of a s2 and c s0 was not finite: the runs are left out of all means, which are those of runs that "
        "trained to the end.",
        "b s1 trained to the end although the loss ended above where it began or was not finite: means take it in.",
        "2 of 9 runs are not finished (1 failed and 1 waiting): the numbers may still change.",
        "Nothing can be said of c: no run of it is finished.",
    ]


def test_no_finished_run() -> None:
    cells: Cells = {
        "a": (("both",), ["running", "failed", "diverged"]),
        "b": (("none",), ["waiting", "waiting", "interrupted"]),
    }
    found = findings(cells)
    assert found.found == [
        "None of the 6 runs is finished (1 diverged, 1 failed, 1 interrupted, 1 running and 2 waiting), so that "
        "nothing is known of their accuracy. The experiment has 2 arms, 3 seeds each, trained on imagenette at 48 px "
        "for 6 epochs."
    ]
    assert found.open == ["The loss of a s2 was not finite: training ended there."]


def test_factors_that_change_together_are_one_subject() -> None:
    cells: Cells = {"a": (("both", "0.1"), narrow(0.7)), "baseline": (("none", "0.2"), narrow(0.72))}
    found = findings(cells, (AUX, "recipe.learning_rate"))
    assert found.found[1] == (
        "In this training, auxiliary classifiers both and recipe.learning_rate 0.1 in place of none and 0.2 lowered "
        "top-1 by 2.0 points (95 % interval 1.95 to 2.05, 3 seeds)."
    )
    assert found.open[0] == (
        "network.aux and recipe.learning_rate change together between these arms: their effects cannot be told apart."
    )


def test_levels_of_a_factor_are_named_as_people_call_them() -> None:
    cells: Cells = {"baseline": (("mixed",), narrow(0.7)), "only": (("3x3",), narrow(0.68))}
    assert findings(cells, ("network.branches",)).found[1] == (
        "In this training, using only 3x3 branches instead of branches of mixed kernels lowered top-1 by 2.0 points "
        "(95 % interval 1.95 to 2.05, 3 seeds)."
    )


def test_unequal_seeds_are_told_from_the_fewest_to_the_most() -> None:
    found = findings({"a": (("both",), wide(0.7)), "b": (("none",), [*wide(0.705), 0.71])}).found
    assert found[0].startswith("7 finished runs of 2 arms, 3 or 4 seeds each, trained")
    assert found[1].endswith("3 or 4 seeds).")


def test_an_interval_that_ends_just_below_0_does_not_seem_to_end_above() -> None:
    ends = stats.t.ppf(0.975, 2) * 0.004 / math.sqrt(3) - 0.0002
    found = findings({"a": (("both",), [0.7 + ends + 0.004 * i for i in (-1, 0, 1)]), "b": (("none",), [0.7] * 3)})
    assert "95 % interval −0.0 to 2.0, 3 seeds)" in found.found[1]
    assert interval(-0.0001, 0.008, points, 1) == "[−0.0, +0.8]"


def test_nothing_clear_is_not_said_to_hold() -> None:
    agreeing = findings({"a": (("both",), [0.7, 0.7]), "b": (("none",), [0.6, 0.6])})
    assert agreeing.open[-1].startswith("Nothing is shown for other data, image sizes or lengths of training")


def test_many_interactions_are_one_sentence() -> None:
    fields = (AUX, REDUCTION, "recipe.learning_rate")
    levels = [(a, b, c) for a in ("both", "none") for b in ("reduced", "unreduced") for c in ("0.1", "0.2", "0.3")]
    found = findings({f"arm{i}": (own, wide(0.7)) for i, own in enumerate(levels)}, fields).found
    assert found[-1].startswith(
        "5 interactions, by which the effect of one factor would depend on another, are not clear (the largest is of "
    )
    assert sum("depend" in text for text in found) == 1
