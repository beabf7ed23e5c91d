"""Measurements on recorded runs: how arms differ.

Each function in `MEASUREMENTS` takes an experiment with at least one finished run and returns the values that a row of
the ledger refers to. It raises `NotMeasured` if the runs do not suffice, for example because there are no two arms that
differ in the field alone.
Accuracies, errors and their differences are in percentage points, the ledger's unit. The evidence begins with the data
and the resolution of the runs, because the claims are about ImageNet.
"""

from __future__ import annotations

from collections.abc import Callable

import pandas as pd

from analysis.claims.curves import early_top1, top1_after
from analysis.claims.gap import overfitting
from analysis.claims.pairs import (
    difference,
    difference_text,
    level_ratio,
    logarithms,
    magnitude,
    pairs,
    power_text,
    ratio_text,
    report_verdict,
    require,
    scale,
)
from analysis.factors import AUX, REDUCTION
from analysis.frames import Recorded
from analysis.statistics import Estimate, Ratio, mean, ratio
from analysis.tables import counted, interval, number, percent, signed
from reproduce import schema
from reproduce.claims.verdicts import Measured, NotMeasured

BRANCHES, HEAD = "network.branches", "network.head"
DROPOUT, AUX_DROPOUT = "network.dropout", "network.aux_dropout"
RESOLUTION, CLASSES = "recipe.resolution", "network.classes"
SINGLE_SCALES = ("1x1", "3x3", "5x5")
TARGET = 0.9
"""The accuracy to which epochs are counted, as a fraction of the mean final top-1 of runs with mixed branches."""
IMAGENET_CLASSES = 1000
MIN_POOLED_RESOLUTION = 64
"""The resolution in pixels from which runs decide claims on pooling.

Below, the last maps are 1x1 or little larger, and pooling has nothing or hardly anything to average.
"""

RunsMeasured = Measured[float | Estimate | Ratio | None]
"""The result of a measurement on runs."""


def auxiliary_heads(recorded: Recorded) -> RunsMeasured:
    """Compare final top-1 with both auxiliary classifiers and with none.

    Returns:
        The measured value `both less none`: top-1 with both minus top-1 with none, in percentage points. The evidence
        also reports this difference after the first quarter of the epochs.
    """
    gain = _difference(recorded, AUX, "both", "none")
    early = 100 * pairs(early_top1(recorded), AUX, schema.VAL_TOP1)
    early_gain = difference(early, "both", "none", paired=recorded.settings.paired)
    return Measured(
        values={"both less none": gain},
        summary=difference_text(gain),
        evidence=f"{scale(recorded)}; {power_text(gain)}; {report_verdict(recorded, AUX, 'both', 'none')}; after a "
        f"quarter of the epochs {difference_text(early_gain)}",
    )


def _difference(recorded: Recorded, field: str, plus: str, minus: str) -> Estimate:
    """Estimate the difference of final top-1 between two values of a config field, in percentage points."""
    top1 = 100 * pairs(recorded.finished, field, schema.FINAL_TOP1)
    return difference(top1, plus, minus, paired=recorded.settings.paired)


def single_head(recorded: Recorded) -> RunsMeasured:
    """Compare final top-1 with both auxiliary classifiers, with none and with a single one.

    Returns:
        The measured values `both less none`, `both less aux1` and `both less aux2`, in percentage points.
    """
    gain = _difference(recorded, AUX, "both", "none")
    heads = ("aux1", "aux2")
    more = {head: _difference(recorded, AUX, "both", head) for head in heads}
    singles = {head: _difference(recorded, AUX, head, "none") for head in heads}
    return Measured(
        values={"both less none": gain, **{f"both less {head}": estimate for head, estimate in more.items()}},
        summary="; ".join(
            f"both less {name} {difference_text(found)}" for name, found in {"none": gain, **more}.items()
        ),
        evidence=f"{scale(recorded)}; {power_text(gain)}; {report_verdict(recorded, AUX, 'both', 'none')}; "
        + ", ".join(f"{head} less none {difference_text(estimate)}" for head, estimate in singles.items()),
    )


def stem_gradient(recorded: Recorded) -> RunsMeasured:
    """Compare gradient norms of stages, without auxiliary classifiers and with both against none.

    Norms are averaged over the epochs of a run. Norms that are not finite are left out, and the evidence says how many.

    Returns:
        The measured values by name:

        - `stem over stage 5 without heads`: the norm of the stem over that of stage 5, without auxiliary classifiers.
        - `ratio in the stem`: the norm of the stem with both over that with none.

        The evidence also reports the latter ratio in stages 3, 4 and 5, by epoch, and divided by the weight of the
        training loss, to which the auxiliary losses add.
    """
    stages = [f"{schema.GRADIENT_NORM}{stage}" for stage in ("stem", "3", "4", "5")]
    epochs = recorded.finite_epochs
    norms = epochs.groupby("run_id")[[stage for stage in stages if stage in epochs]].mean()
    runs = recorded.finished.merge(norms, on="run_id")
    stem, *others = (level_ratio(recorded, runs, AUX, stage, "both", "none") for stage in stages)
    plain = logarithms(runs.loc[runs[AUX].eq("none"), [stages[0], stages[-1]]]).dropna()
    deep = ratio(plain[stages[0]] - plain[stages[-1]], magnitude=magnitude(plain))
    left_out = "".join(
        f"; {name} was not finite in {counted(count, 'epoch')}"
        for name, count in recorded.not_finite.items()
        if name in stages
    )
    return Measured(
        values={"stem over stage 5 without heads": deep, "ratio in the stem": stem},
        summary=f"the stem over stage 5 without heads {ratio_text(deep)}; in the stem, both heads over none "
        f"{ratio_text(stem)}",
        evidence=f"{scale(recorded)}; {power_text(stem)}; "
        + ", ".join(f"stage {name} {ratio_text(other)}" for name, other in zip("345", others, strict=True))
        + f"; in the stem {_without_weight(runs, stem)}by epoch {_by_epoch(recorded, stages[0])}{left_out}",
    )


def _without_weight(runs: pd.DataFrame, stem: Ratio) -> str:
    """Format a ratio of both auxiliary classifiers over none, divided by the weight of the loss of the former."""
    if "network.aux_weight" not in runs:
        return ""
    weight = 1 + 2 * float(runs.loc[runs[AUX].eq("both"), "network.aux_weight"].astype(float).mean())
    return f"{number(stem.value / weight, 2)} times after division by the weight of the loss with heads, {weight:g}; "


def _by_epoch(recorded: Recorded, stage: str) -> str:
    """Format the ratio of a stage's gradient norms with both auxiliary classifiers and with none, epoch by epoch."""
    ratios = []
    for _, own in recorded.finite_epochs.groupby("epoch"):
        runs = recorded.finished.merge(own[["run_id", stage]], on="run_id")
        ratios.append(number(level_ratio(recorded, runs, AUX, stage, "both", "none").value, 2))
    return ", ".join(ratios)


def reduction_accuracy(recorded: Recorded) -> RunsMeasured:
    """Compare final top-1 with and without 1x1 reductions.

    Returns:
        The measured value `reduced less unreduced`: top-1 with reductions minus top-1 without, in percentage points.
        The evidence also reports this difference at equal compute.
    """
    cost = _difference(recorded, REDUCTION, "reduced", "unreduced")
    further = [
        f"at equal compute, where the unreduced runs had not come to the end of their schedule, "
        f"{difference_text(_at_equal_compute(recorded))}"
    ]
    if recorded.finished[REDUCTION].eq("naive").any():
        further.append(f"reduced less naive {difference_text(_difference(recorded, REDUCTION, 'reduced', 'naive'))}")
    decided = report_verdict(recorded, REDUCTION, "reduced", "unreduced")
    return Measured(
        values={"reduced less unreduced": cost},
        summary=difference_text(cost),
        evidence="; ".join([scale(recorded), power_text(cost), decided, *further]),
    )


def _at_equal_compute(recorded: Recorded) -> Estimate:
    """Estimate final top-1 of reduced runs minus top-1 of unreduced runs at equal compute, in percentage points.

    An unreduced run is read at the point of its training at which it had needed as many multiply-adds as a whole
    reduced run. Between two validations, its top-1 is interpolated linearly. Its learning rate is still high there and
    that of the reduced run has fallen to its end, so that the estimate favours the reduced networks.
    """
    require(recorded.finished, schema.COST_MACS_TRAINING)
    runs = recorded.finished
    macs = runs.groupby(REDUCTION)[schema.COST_MACS_TRAINING].mean()
    fraction = float(macs["reduced"] / macs["unreduced"])
    costly = runs[REDUCTION].eq("unreduced")
    reached = [top1_after(recorded, run, fraction) for run in runs.loc[costly, "run_id"]]
    runs.loc[costly, schema.FINAL_TOP1] = reached
    top1 = 100 * pairs(runs, REDUCTION, schema.FINAL_TOP1)
    return difference(top1, "reduced", "unreduced", paired=recorded.settings.paired)


def scales(recorded: Recorded) -> RunsMeasured:
    """Compare final top-1 with branches of several kernel sizes and with a single size, at matched multiply-adds.

    Returns:
        The measured values `mixed less 1x1`, `mixed less 3x3` and `mixed less 5x5`: top-1 with mixed branches minus
        top-1 with each single size, in percentage points.
    """
    found = {f"mixed less {kernel}": _difference(recorded, BRANCHES, "mixed", kernel) for kernel in SINGLE_SCALES}
    require(recorded.finished, schema.COST_MACS)
    macs = recorded.finished.groupby(BRANCHES)[schema.COST_MACS].mean()
    deviation = float((macs / macs["mixed"] - 1).abs().max())
    return Measured(
        values={**found},
        summary=", ".join(f"{name} {difference_text(estimate)}" for name, estimate in found.items()),
        evidence=f"{scale(recorded)}; {power_text(found['mixed less 3x3'])}; "
        f"{report_verdict(recorded, BRANCHES, 'mixed', '3x3')}; multiply-adds equal within {percent(deviation)} %",
    )


def channel_clusters(recorded: Recorded) -> RunsMeasured:
    """Compare the correlation of channels within branches and across them.

    The compared difference is the mean absolute correlation within a branch minus that across branches. It is averaged
    over the finished runs with mixed branches.

    Returns:
        The measured values by name:

        - `above the band`: the difference minus the upper end of its 95 % band for randomly assigned branches.
        - `more than untrained`: the difference minus that of the same network before training.
        - `convergence`: None, since no arms differ in their clusters alone. The evidence has the epochs to a target.
    """
    runs = recorded.finished
    require(runs, schema.CLUSTER_DIFFERENCE)
    mixed = runs[runs[BRANCHES].eq("mixed")].dropna(subset=schema.CLUSTER_DIFFERENCE)
    if mixed.empty:
        raise NotMeasured("no finished run has mixed branches")
    gathered = mixed[schema.CLUSTER_DIFFERENCE]
    above = mean(list(gathered - mixed[schema.CLUSTER_PERMUTED_95]), magnitude=1)
    gained = mean(list(gathered - mixed[schema.CLUSTER_UNTRAINED]), magnitude=1)
    within, across, band, untrained = (
        float(mixed[name].mean())
        for name in (
            schema.CLUSTER_WITHIN, schema.CLUSTER_ACROSS, schema.CLUSTER_PERMUTED_95, schema.CLUSTER_UNTRAINED,
        )
    )  # fmt: skip
    return Measured(
        values={"above the band": above, "more than untrained": gained, "convergence": None},
        summary=f"mean |r| {within:.3f} within, {across:.3f} across; difference {gathered.mean():.3f}, untrained "
        f"{untrained:.3f}",
        evidence=f"{scale(recorded)}; n = {above.n}; the band of random branches ends at {band:.4f}; trained less "
        f"untrained {signed(gained.value, 3)} {interval(gained.low, gained.high, signed, 3)}; "
        f"{_epochs_to_target(recorded)}",
    )


def _epochs_to_target(recorded: Recorded) -> str:
    """Format the mean number of epochs to the target accuracy for each kind of branches."""
    arms = recorded.finished.groupby(BRANCHES, sort=False)
    target = TARGET * float(arms[schema.FINAL_TOP1].mean()["mixed"])
    curves = recorded.epochs.merge(recorded.finished[["run_id", BRANCHES]], on="run_id")
    reached = curves[curves[schema.VAL_TOP1].ge(target)].groupby([BRANCHES, "run_id"])["epoch"].min() + 1
    means = [
        f"{name} {reached[name].mean():.1f}" if len(reached.get(name, ())) == len(own) else f"{name} not in all runs"
        for name, own in arms
    ]
    return f"epochs to {percent(target, 0)} %: {', '.join(means)}"


def pooling(recorded: Recorded) -> RunsMeasured:
    """Compare final top-1 with average pooling before the classifier and with a fully connected layer.

    Returns:
        The measured value `avgpool less fc`: top-1 with pooling minus top-1 with the layer, in percentage points.

    Raises:
        NotMeasured: A run has a resolution below `MIN_POOLED_RESOLUTION`, or there are not runs of both kinds.
    """
    resolution = int(recorded.finished[RESOLUTION].astype(int).min())
    if resolution < MIN_POOLED_RESOLUTION:
        raise NotMeasured(
            f"at {resolution} px there is hardly anything to pool; runs at {MIN_POOLED_RESOLUTION} px or more decide "
            "this claim"
        )
    gain = _difference(recorded, HEAD, "avgpool", "fc")
    require(recorded.finished, schema.COST_PARAMETERS)
    cost = recorded.finished.groupby(HEAD)[schema.COST_PARAMETERS].mean()
    return Measured(
        values={"avgpool less fc": gain},
        summary=difference_text(gain),
        evidence=f"{scale(recorded)}; {power_text(gain)}; {report_verdict(recorded, HEAD, 'avgpool', 'fc')}; fc has "
        f"{cost['fc'] / cost['avgpool']:.1f} times the parameters",
    )


def dropout(recorded: Recorded) -> RunsMeasured:
    """Compare final top-1 with dropout and without it, before the main classifier and in the auxiliary classifiers.

    Returns:
        The measured values `0.4 less 0` and `heads 0.7 less 0`, in percentage points. The evidence also reports the
        difference of 0.5 in the auxiliary classifiers.
    """
    main = _difference(recorded, DROPOUT, "0.4", "0.0")
    heads = {rate: _difference(recorded, AUX_DROPOUT, rate, "0.0") for rate in ("0.7", "0.5")}
    return Measured(
        values={"0.4 less 0": main, "heads 0.7 less 0": heads["0.7"]},
        summary=f"before the main classifier {difference_text(main)}; in the heads {difference_text(heads['0.7'])}",
        evidence=f"{scale(recorded)}; {power_text(main)}; 0.5 in the heads less 0 {difference_text(heads['0.5'])}",
    )


def caffe(recorded: Recorded) -> RunsMeasured:
    """Measure final accuracy on ImageNet, as a mean over all finished runs.

    Returns:
        The measured values `top-1` and `top-5`: the accuracies in percent.

    Raises:
        NotMeasured: A finished run was not trained on ImageNet.
    """
    top1, top5 = (mean(list(100 * recorded.finished[m])) for m in (schema.FINAL_TOP1, schema.FINAL_TOP5))
    return _on_imagenet(recorded, {"top-1": top1, "top-5": top5})


def recipe(recorded: Recorded) -> RunsMeasured:
    """Measure the final top-5 error on ImageNet, as a mean over all finished runs.

    Returns:
        The measured value `top-5 error`: the error in percent.

    Raises:
        NotMeasured: A finished run was not trained on ImageNet.
    """
    errors = list(100 * (1 - recorded.finished[schema.FINAL_TOP5]))
    return _on_imagenet(recorded, {"top-5 error": mean(errors, magnitude=100)})


def _on_imagenet(recorded: Recorded, values: dict[str, Estimate]) -> RunsMeasured:
    """Return values in percent, or raise `NotMeasured` with the values if not all runs were trained on ImageNet."""
    summary = ", ".join(f"{k} {number(v.value, 2)} {interval(v.low, v.high, number)} %" for k, v in values.items())
    if not recorded.finished[CLASSES].astype(int).eq(IMAGENET_CLASSES).all():
        raise NotMeasured(f"{scale(recorded)} the runs reach {summary}")
    (first, *_) = values.values()
    return Measured(values={**values}, summary=summary, evidence=f"{scale(recorded)}; {power_text(first)}")


MEASUREMENTS: dict[str, Callable[[Recorded], RunsMeasured]] = {
    "auxiliary-heads": auxiliary_heads,
    "single-head": single_head,
    "stem-gradient": stem_gradient,
    "reduction-accuracy": reduction_accuracy,
    "overfitting": overfitting,
    "scales": scales,
    "channel-clusters": channel_clusters,
    "pooling": pooling,
    "dropout-needed": dropout,
    "caffe": caffe,
    "recipe": recipe,
}
"""The measurements on runs, by the name that the ledger uses."""
