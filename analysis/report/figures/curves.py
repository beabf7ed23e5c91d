"""Draws what changes from epoch to epoch: accuracy, loss and gradients."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import matplotlib as mpl
import pandas as pd
from matplotlib.ticker import MaxNLocator

from analysis.report.figures.style import STYLE, Plot, Readout, colour, line, log_scale, marker, panel, places
from analysis.tables import counted, number
from reproduce import schema

STAGES = ["stem", "3", "4", "5", "head"]
"""Stages of the network whose gradients are drawn, from input to output."""
SINGLE_RUNS = 20
"""Number of unfinished runs of which single lines are drawn at most."""


def learning_curves(epochs: pd.DataFrame, arms: Sequence[str], finished: set[str]) -> list[Plot]:
    """Draw validation top-1 and training loss by epoch: the mean over the seeds of each arm, and their range.

    Args:
        epochs: Epochs in the format of `analysis.frames.Recorded.finite_epochs`.
        arms: Names of the arms, in the order of their colours.
        finished: Ids of the finished runs, over which mean and range are taken. Others are drawn as single lines.

    Returns:
        One plot for each of the two metrics that was recorded.
    """
    plots = []
    for metric, name, title, label, scale in (
        (schema.VAL_TOP1, "top1-by-epoch", "Validation top-1 by epoch", "top-1, %", 100),
        (schema.TRAIN_LOSS_MAIN, "loss-by-epoch", "Training loss of the main classifier by epoch", "cross-entropy", 1),
    ):
        if metric not in epochs or epochs[metric].isna().all():
            continue
        rest = epochs.loc[~epochs["run_id"].isin(finished), "run_id"].nunique()
        caption = (
            "Lines are means over the finished runs of an arm; shaded is the range from the lowest to the highest."
        )
        if 0 < rest <= SINGLE_RUNS:
            caption += " Thin lines that end in a cross are unfinished runs."
        elif rest:
            caption += f" {counted(rest, 'unfinished run')} are not drawn."
        values = epochs[["run_id", "arm", "epoch"]].assign(value=scale * epochs[metric])
        plots.append(_over_epochs(values, arms, finished, name=name, title=title, label=label, caption=caption))
    return plots


def gradients(
    epochs: pd.DataFrame, arms: Sequence[str], finished: set[str], not_finite: Mapping[str, int]
) -> list[Plot]:
    """Draw the gradient norm by stage in the first epoch, and the gradient norm of the first stage by epoch.

    Args:
        epochs: Epochs in the format of `analysis.frames.Recorded.finite_epochs`.
        arms: Names of the arms, in the order of their colours.
        finished: Ids of the finished runs, over which means are taken.
        not_finite: Number of values that are not finite, by metric, as in `analysis.frames.Recorded`.

    Returns:
        Two plots, or none if no gradient norm was recorded. Captions say how many values are not drawn.
    """
    own = epochs[epochs["run_id"].isin(finished)]
    stages = [
        stage
        for stage in STAGES
        if schema.GRADIENT_NORM + stage in own and own[schema.GRADIENT_NORM + stage].gt(0).any()
    ]
    if not stages:
        return []
    caption = "Means over sampled steps and seeds; logarithmic scale."
    left_out = {stage: not_finite.get(schema.GRADIENT_NORM + stage, 0) for stage in stages}
    if any(left_out.values()):
        counts = ", ".join(f"{counted(count, 'epoch')} of stage {stage}" for stage, count in left_out.items() if count)
        caption += f" Norms that are not finite are left out ({counts})."
    lowest = own[["run_id", "arm", "epoch"]].assign(value=own[schema.GRADIENT_NORM + stages[0]])
    return [
        _by_stage(own, arms, stages, caption),
        _over_epochs(
            lowest[lowest["value"].gt(0)],
            arms,
            finished,
            name="gradient-by-epoch",
            title=f"Gradient norm of stage {stages[0]} by epoch",
            label="L2 norm of the gradient",
            caption=f"{caption} Shaded is the range over seeds.",
            logarithmic=True,
        ),
    ]


@mpl.rc_context(STYLE)
def _by_stage(epochs: pd.DataFrame, arms: Sequence[str], stages: Sequence[str], caption: str) -> Plot:
    first = epochs[epochs["epoch"] == 0].groupby("arm")[[schema.GRADIENT_NORM + stage for stage in stages]].mean()
    figure, axes = panel()
    values = []
    for i, arm in enumerate(arms):
        if arm in first.index:
            norms = [float(norm) for norm in first.loc[arm].to_numpy()]
            axes.plot(range(len(stages)), norms, marker=marker(i), **line(i))
            values.append((i, [number(norm, 3) for norm in norms]))
    axes.set_xticks(range(len(stages)), stages)
    axes.set(xlabel="stage, from input to output", ylabel="L2 norm of the gradient")
    log_scale(axes)
    readout = Readout(unit="stage", labels=stages, positions=places(figure, axes, range(len(stages))), values=values)
    title = "Gradient norm by stage, first epoch"
    return Plot(name="gradient-by-stage", title=title, caption=caption, figure=figure, readout=readout)


@mpl.rc_context(STYLE)
def _over_epochs(
    values: pd.DataFrame,
    arms: Sequence[str],
    finished: set[str],
    *,
    name: str,
    title: str,
    label: str,
    caption: str,
    logarithmic: bool = False,
) -> Plot:
    """Draw mean and range of a value over the finished runs of each arm, by epoch.

    Args:
        values: A frame with the columns run_id, arm, epoch (counted from 0) and value.
    """
    done = values["run_id"].isin(finished)
    spread = values[done].groupby(["arm", "epoch"])["value"].agg(["mean", "min", "max", "count"]).dropna()
    rest = values[~done].dropna()
    if rest["run_id"].nunique() > SINGLE_RUNS:
        rest = rest.iloc[:0]
    every_epoch = sorted(set(spread.index.get_level_values("epoch")) | set(rest["epoch"]))
    figure, axes = panel()
    shown = []
    show = _decimals(values["value"])
    for i, arm in enumerate(arms):
        for _, run in rest[rest["arm"] == arm].groupby("run_id"):
            x, y = run["epoch"] + 1, run["value"]
            axes.plot(x, y, color=colour(i), linewidth=0.7, gid=f"arm-{i}")
            axes.plot(x.iloc[-1:], y.iloc[-1:], color=colour(i), marker="x", markersize=4, gid=f"arm-{i}")
        if arm not in spread.index:
            continue
        own = spread.loc[arm]
        done_epochs = own.index.to_numpy() + 1
        if own["count"].max() > 1:
            axes.fill_between(
                done_epochs, own["min"], own["max"], color=colour(i), alpha=0.16, linewidth=0, gid=f"arm-{i}"
            )
        axes.plot(done_epochs, own["mean"], **line(i))
        axes.plot(done_epochs[-1:], own["mean"].iloc[-1:], color=colour(i), marker=marker(i), gid=f"arm-{i}")
        texts = {
            int(str(epoch)): show(row["mean"])
            + (f" ({show(row['min'])} to {show(row['max'])})" if row["count"] > 1 else "")
            for epoch, row in own.iterrows()
        }
        shown.append((i, [texts.get(epoch, "") for epoch in every_epoch]))
    axes.set(xlabel="epoch", ylabel=label)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
    if logarithmic:
        log_scale(axes)
    readout = Readout(
        unit="epoch",
        labels=[str(epoch + 1) for epoch in every_epoch],
        positions=places(figure, axes, [epoch + 1 for epoch in every_epoch]) if every_epoch else [],
        values=shown,
    )
    return Plot(name=name, title=title, caption=caption, figure=figure, readout=readout)


def _decimals(values: pd.Series) -> Callable[[float], str]:
    digits = 1 if values.max() > 10 else 3
    return lambda value: number(value, digits)
