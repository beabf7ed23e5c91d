"""Measurements on recorded runs: what arms differ in, paired by seed. One function a row of the ledger.

Accuracies and errors are in percentage points. Evidence begins with the data and the resolution that the runs had:
the claims are about ImageNet.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from reproduce import schema
from reproduce.claims.estimates import mean, paired, pairs, points, power, ratio, times
from reproduce.claims.verdicts import EmpiricalMeasurement, Estimate, Measured, NotMeasured, RecordedRuns

if TYPE_CHECKING:
    import pandas as pd

AUX, REDUCTION, BRANCHES, HEAD = "network.aux", "network.reduction", "network.branches", "network.head"
FRACTION, RESOLUTION, CLASSES = "data.train_fraction", "recipe.resolution", "network.classes"
SINGLE_SCALES = ("1x1", "3x3", "5x5")
EARLY = 0.25
"""Of the epochs: how accuracy stands then is called early."""
TARGET = 0.9
"""Of the mixed arm's final accuracy: the accuracy to which epochs are counted."""
IMAGENET_CLASSES = 1000
SMALLEST_POOLED = 64
"""Below, the last maps are 1x1 and an average over them is none."""


def auxiliary_heads(recorded: RecordedRuns) -> Measured:
    top1 = 100 * pairs(recorded.finished, AUX, schema.FINAL_TOP1)
    difference = mean(paired(top1, "both", "none"))
    early = mean(paired(100 * pairs(_early(recorded), AUX, schema.VAL_TOP1), "both", "none"))
    return Measured(
        values={"both less none": difference},
        summary=points(difference),
        evidence=f"{scale(recorded)}; {power(difference)}; after a quarter of the epochs {points(early)}",
    )


def _early(recorded: RecordedRuns) -> pd.DataFrame:
    """The finished runs with their validation top-1 after the first quarter of the epochs, rounded up."""
    epochs = recorded.epochs.assign(done=recorded.epochs["epoch"] + 1)
    whole = epochs.groupby("run_id")["done"].transform("max")
    then = epochs[epochs["done"].eq(np.ceil(EARLY * whole))]
    return recorded.finished.merge(then[["run_id", schema.VAL_TOP1]], on="run_id")


def single_head(recorded: RecordedRuns) -> Measured:
    top1 = 100 * pairs(recorded.finished, AUX, schema.FINAL_TOP1)
    gain = mean(paired(top1, "both", "none"))
    singles = {head: mean(paired(top1, head, "none")) for head in ("aux1", "aux2")}
    better = max(singles, key=lambda head: singles[head].value)
    difference = mean(paired(top1, "both", better))
    return Measured(
        values={"both less none": gain, "both less the better single head": difference},
        summary=f"both less none {points(gain)}; both less {better} {points(difference)}",
        evidence=f"{scale(recorded)}; {power(gain)}; "
        + ", ".join(f"{head} less none {points(estimate)}" for head, estimate in singles.items()),
    )


def stem_gradient(recorded: RecordedRuns) -> Measured:
    stages = [f"{schema.GRADIENT_NORM}{stage}" for stage in ("stem", "3", "4", "5")]
    norms = recorded.epochs.groupby("run_id")[[stage for stage in stages if stage in recorded.epochs]].mean()
    runs = recorded.finished.merge(norms, on="run_id")
    stem, *others = (_ratio(runs, AUX, stage, "both", "none") for stage in stages)
    plain = runs[runs[AUX].eq("none")]
    deep = ratio([math.log(a / b) for a, b in zip(plain[stages[0]], plain[stages[-1]], strict=True)])
    return Measured(
        values={"ratio in the stem": stem},
        summary=f"stem {times(stem)}",
        evidence=f"{scale(recorded)}; {power(stem, 1)}; "
        + ", ".join(f"stage {name} {times(of)}" for name, of in zip("345", others, strict=True))
        + f"; the stem over stage 5 without heads {times(deep)}",
    )


def reduction_cost(recorded: RecordedRuns) -> Measured:
    runs = _with_peaks(recorded)
    ratios = {
        name: _ratio(runs, REDUCTION, metric, "reduced", "unreduced")
        for name, metric in (
            ("images/s", schema.FINAL_IMAGES_PER_S),
            ("peak memory", schema.PEAK_MEMORY_GIB),
            ("energy", schema.GPU_ENERGY_J),
        )
        if metric in runs
    }
    cost = runs.groupby(REDUCTION)[[schema.COST_PARAMETERS, schema.COST_MACS]].mean().T
    parameters, macs = (cost["reduced"] / cost["unreduced"]).tolist()
    further = [f"{name} {times(ratios[name])}" for name in ratios if name != "images/s"]
    if "naive" in cost:
        more = (cost["naive"] / cost["reduced"]).tolist()
        further.append(f"naive: {more[0]:.1f} times the parameters, {more[1]:.1f} times the multiply-adds")
    speed = ratios["images/s"]
    return Measured(
        values={"parameters": parameters, "multiply-adds": macs, "images/s": speed},
        summary=f"{100 * parameters:.0f} % of the parameters, {100 * macs:.0f} % of the multiply-adds, "
        f"images/s {times(speed)}",
        evidence="; ".join([scale(recorded), power(speed, 1), *further]),
    )


def _with_peaks(recorded: RecordedRuns) -> pd.DataFrame:
    """The finished runs, with the largest peak memory of their epochs."""
    peaks = [name for name in recorded.epochs if name == schema.PEAK_MEMORY_GIB]
    return recorded.finished.merge(recorded.epochs.groupby("run_id")[peaks].max(), on="run_id")


def _ratio(runs: pd.DataFrame, field: str, metric: str, plus: str, minus: str) -> Estimate:
    return ratio(paired(pairs(runs, field, metric).map(math.log), plus, minus))


def reduction_accuracy(recorded: RecordedRuns) -> Measured:
    top1 = 100 * pairs(recorded.finished, REDUCTION, schema.FINAL_TOP1)
    difference = mean(paired(top1, "reduced", "unreduced"))
    further = [f"at equal compute {points(mean(_at_equal_compute(recorded, top1)))}"]
    if "naive" in top1:
        naive = mean(paired(top1, "reduced", "naive"))
        further.append(f"reduced less naive {points(naive)}")
    return Measured(
        values={"reduced less unreduced": difference},
        summary=points(difference),
        evidence="; ".join([scale(recorded), power(difference), *further]),
    )


def _at_equal_compute(recorded: RecordedRuns, top1: pd.DataFrame) -> list[float]:
    """Final top-1 of reduced runs less that of unreduced ones when these had made as many multiply-adds; between two
    validations, on the line that joins them."""
    macs = recorded.finished.groupby(REDUCTION)[schema.COST_MACS_TRAINING].mean()
    share = float(macs["reduced"] / macs["unreduced"])
    unreduced = recorded.finished[recorded.finished[REDUCTION].eq("unreduced")]
    reached = unreduced.assign(then=[_top1_after(recorded, run, share) for run in unreduced["run_id"]])
    then = 100 * reached.groupby("seed")["then"].mean()
    return list((top1["reduced"].groupby(level="seed").mean() - then).dropna())


def _top1_after(recorded: RecordedRuns, run_id: str, share: float) -> float:
    """Validation top-1 of a run after a share of its epochs."""
    curve = recorded.epochs[recorded.epochs["run_id"].eq(run_id)].sort_values("epoch")
    done = curve["epoch"] + 1
    return float(np.interp(share * done.max(), done, curve[schema.VAL_TOP1], left=math.nan))


def overfitting(recorded: RecordedRuns) -> Measured:
    """Gap: top-1 on training images less that on validation images, both in validation's crops; its slope over the
    logarithm of parameters is taken over the arms of each seed."""
    runs = recorded.finished
    if schema.FINAL_TRAIN_TOP1_PLAIN not in runs:
        raise NotMeasured(f"no run has recorded {schema.FINAL_TRAIN_TOP1_PLAIN}")
    gap = 100 * (runs[schema.FINAL_TRAIN_TOP1_PLAIN] - runs[schema.FINAL_TOP1])
    table = runs.assign(gap=gap, fraction=runs[FRACTION].astype(float), doublings=np.log2(runs[schema.COST_PARAMETERS]))
    wide = table.pivot_table(index="seed", columns=["fraction", "doublings"], values="gap")
    fractions = sorted(wide.columns.unique("fraction"))
    few, many = (wide[fraction].dropna() for fraction in (fractions[0], fractions[-1]))
    common = few.columns.intersection(many.columns)
    if len(fractions) < 2 or len(common) < 2:
        raise NotMeasured("the runs are all of one fraction of the images, or of one number of parameters")
    slopes = [mean([float(np.polyfit(own.columns, row, 1)[0]) for row in own.to_numpy()]) for own in (many, few)]
    fewer = mean(list((few[common].mean(axis=1) - many[common].mean(axis=1)).dropna()))
    return Measured(
        values={
            "slope on most images": slopes[0],
            "slope on fewest images": slopes[1],
            "gap on fewest less on most": fewer,
        },
        summary="; ".join(
            f"on {100 * fraction:.0f} % of the images a gap of {own.to_numpy().mean():.1f} points, {points(slope)} a "
            "doubling of parameters"
            for fraction, own, slope in zip((fractions[-1], fractions[0]), (many, few), slopes, strict=True)
        ),
        evidence=f"{scale(recorded)}; {power(slopes[0])}; the gap on fewer images less that on more {points(fewer)}",
    )


def scales(recorded: RecordedRuns) -> Measured:
    top1 = 100 * pairs(recorded.finished, BRANCHES, schema.FINAL_TOP1)
    found = {f"mixed less {kernel}": mean(paired(top1, "mixed", kernel)) for kernel in SINGLE_SCALES}
    macs = recorded.finished.groupby(BRANCHES)[schema.COST_MACS].mean()
    off = float((macs / macs["mixed"] - 1).abs().max())
    return Measured(
        values=found,
        summary=", ".join(f"{name} {points(estimate)}" for name, estimate in found.items()),
        evidence=f"{scale(recorded)}; {power(found['mixed less 3x3'])}; multiply-adds within {100 * off:.2f} %",
    )


def channel_clusters(recorded: RecordedRuns) -> Measured:
    runs = recorded.finished
    if schema.CLUSTER_DIFFERENCE not in runs:
        raise NotMeasured(f"no run has recorded {schema.CLUSTER_DIFFERENCE}")
    mixed = runs[runs[BRANCHES].eq("mixed")].dropna(subset=schema.CLUSTER_DIFFERENCE)
    if mixed.empty:
        raise NotMeasured("no finished run has mixed branches")
    difference = mixed[schema.CLUSTER_DIFFERENCE]
    above = mean(list(difference - mixed[schema.CLUSTER_PERMUTED_95]))
    gained = mean(list(difference - mixed[schema.CLUSTER_UNTRAINED]))
    within, across, band, untrained = (
        float(mixed[name].mean())
        for name in (
            schema.CLUSTER_WITHIN, schema.CLUSTER_ACROSS, schema.CLUSTER_PERMUTED_95, schema.CLUSTER_UNTRAINED,
        )
    )  # fmt: skip
    return Measured(
        values={"above the band": above, "more than untrained": gained},
        summary=f"mean |r| {within:.3f} within, {across:.3f} across; difference {difference.mean():.3f}, untrained "
        f"{untrained:.3f}",
        evidence=f"{scale(recorded)}, n = {above.n}; band of random branches up to {band:.4f}; "
        f"less untrained {gained.value:+.3f} [{gained.low:+.3f}, {gained.high:+.3f}]{_speeds(recorded)}",
    )


def _speeds(recorded: RecordedRuns) -> str:
    """Epochs to the target accuracy, arm by arm."""
    arms = recorded.finished.groupby(BRANCHES, sort=False)
    target = TARGET * float(arms[schema.FINAL_TOP1].mean()["mixed"])
    curves = recorded.epochs.merge(recorded.finished[["run_id", BRANCHES]], on="run_id")
    reached = curves[curves[schema.VAL_TOP1].ge(target)].groupby([BRANCHES, "run_id"])["epoch"].min() + 1
    told = [
        f"{name} {reached[name].mean():.1f}" if len(reached.get(name, ())) == len(own) else f"{name} not in all runs"
        for name, own in arms
    ]
    return f"; epochs to {100 * target:.0f} %: {', '.join(told)}"


def pooling(recorded: RecordedRuns) -> Measured:
    side = int(recorded.finished[RESOLUTION].astype(int).min())
    if side < SMALLEST_POOLED:
        raise NotMeasured(f"at {side} px the last maps are 1x1: nothing is pooled below {SMALLEST_POOLED} px")
    difference = mean(paired(100 * pairs(recorded.finished, HEAD, schema.FINAL_TOP1), "avgpool", "fc"))
    cost = recorded.finished.groupby(HEAD)[schema.COST_PARAMETERS].mean()
    return Measured(
        values={"avgpool less fc": difference},
        summary=points(difference),
        evidence=f"{scale(recorded)}; {power(difference)}; fc has {cost['fc'] / cost['avgpool']:.1f} times the "
        "parameters",
    )


def caffe(recorded: RecordedRuns) -> Measured:
    top1, top5 = (mean(list(100 * recorded.finished[m])) for m in (schema.FINAL_TOP1, schema.FINAL_TOP5))
    return _on_imagenet(recorded, {"top-1": top1, "top-5": top5})


def recipe(recorded: RecordedRuns) -> Measured:
    return _on_imagenet(recorded, {"top-5 error": mean(list(100 * (1 - recorded.finished[schema.FINAL_TOP5])))})


def _on_imagenet(recorded: RecordedRuns, values: dict[str, Estimate]) -> Measured:
    """Values that only ImageNet's images can confirm."""
    told = ", ".join(f"{name} {v.value:.2f} [{v.low:.2f}, {v.high:.2f}] %" for name, v in values.items())
    if not recorded.finished[CLASSES].astype(int).eq(IMAGENET_CLASSES).all():
        raise NotMeasured(f"{scale(recorded)} the runs reach {told}")
    (first, *_) = values.values()
    return Measured(values=values, summary=told, evidence=f"{scale(recorded)}; {power(first)}")


def scale(recorded: RecordedRuns) -> str:
    """Data and resolution of the runs, e.g. "on imagenette at 32 px"."""
    runs = recorded.finished
    return "on " + ", ".join(sorted(set(runs["data.path"] + " at " + runs[RESOLUTION] + " px")))


MEASUREMENTS: dict[str, EmpiricalMeasurement] = {
    "auxiliary-heads": auxiliary_heads,
    "single-head": single_head,
    "stem-gradient": stem_gradient,
    "reduction-cost": reduction_cost,
    "reduction-accuracy": reduction_accuracy,
    "overfitting": overfitting,
    "scales": scales,
    "channel-clusters": channel_clusters,
    "pooling": pooling,
    "caffe": caffe,
    "recipe": recipe,
}
