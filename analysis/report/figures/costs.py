"""Draws accuracy against what it costs, and how fast training runs."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
import pandas as pd

from analysis.report.figures.style import INK, PAPER, STYLE, Plot, colour, marker, panel
from analysis.tables import number, percent
from reproduce import schema

BARS = 40
"""Number of arms up to which single bars are drawn."""


def pareto(summary: pd.DataFrame) -> list[Plot]:
    """Draw the arms' top-1 against multiply-adds, parameters, images/s and energy, each with its Pareto front.

    Args:
        summary: One row for each arm, as `analysis.summaries.summarise_arms` returns it. Its index, counted from 0,
            determines the colours.

    Returns:
        One plot for each of the quantities that was recorded.
    """
    quantities = [
        ("macs", "multiply-adds", "{}multiply-adds per image, at evaluation", False),
        ("parameters_inference", "parameters", "{}parameters, at evaluation", False),
        ("images_per_s", "training throughput", "images/s in training", True),
        ("gpu_energy_j", "energy", "{}joules per run, of its GPUs", False),
    ]
    plots = []
    for column, name, label, more_is_better in quantities:
        drawn = summary[summary[column].notna() & summary["top1"].notna()] if column in summary else summary.iloc[:0]
        if len(drawn):
            plots.append(_pareto(drawn, column, name, label, more_is_better=more_is_better))
    return plots


def on_front(cost: Sequence[float], accuracy: Sequence[float], *, more_is_better: bool = False) -> list[bool]:
    """Return which points no other point dominates: none is at least as good in both and better in one.

    Args:
        cost: The first coordinate, of which less is better unless `more_is_better`.
        accuracy: The second coordinate, of which more is better.
    """
    x = np.asarray(cost, dtype=float) * (1 if more_is_better else -1)
    y = np.asarray(accuracy, dtype=float)
    return [not bool(np.any((x >= a) & (y >= b) & ((x > a) | (y > b)))) for a, b in zip(x, y, strict=True)]


@mpl.rc_context(STYLE)
def _pareto(drawn: pd.DataFrame, column: str, name: str, label: str, *, more_is_better: bool) -> Plot:
    highest = drawn[column].max()
    scale, unit = next(
        (pair for pair in ((1e-9, "billion "), (1e-6, "million "), (1e-3, "thousand ")) if highest * pair[0] >= 1),
        (1.0, ""),
    )
    if "{}" not in label:
        scale = 1.0
    front = on_front(drawn[column].tolist(), drawn["top1"].tolist(), more_is_better=more_is_better)
    figure, axes = panel()
    steps = drawn[front].sort_values([column, "top1"])
    axes.step(
        scale * steps[column],
        100 * steps["top1"],
        where="pre" if more_is_better else "post",
        color=INK,
        linewidth=0.9,
        linestyle=(0, (2, 2)),
    )
    for (index, row), best in zip(drawn.iterrows(), front, strict=True):
        i = int(str(index))
        axes.errorbar(
            scale * row[column],
            100 * row["top1"],
            yerr=_error_bars(row, "top1", 100),
            color=colour(i),
            marker=marker(i),
            markersize=8,
            markerfacecolor=colour(i) if best else PAPER,
            elinewidth=1.2,
            capsize=0,
        )
    axes.margins(0.15)
    axes.set(xlabel=label.format(unit), ylabel="top-1, %")
    caption = (
        "Means over seeds, with 95 % intervals of top-1. Filled: arms on the Pareto front (dotted), to which no other "
        "arm is at least as good in both and better in one; hollow: the others."
    )
    if column == "images_per_s":  # no interval: they vary with the load of the machine rather than with the seed
        caption += " Images/s depend on the machine and on what else it did."
    return Plot(
        name=f"top1-against-{name.replace(' ', '-')}", title=f"Top-1 against {name}", caption=caption, figure=figure
    )


@mpl.rc_context(STYLE)
def throughput(epochs: pd.DataFrame, arms: Sequence[str], finished: set[str]) -> Plot | None:
    """Draw the images per second of each arm, and the share of training time spent waiting for data.

    Args:
        epochs: Epochs in the format of `analysis.frames.Recorded.finite_epochs`.
        arms: Names of the arms, in the order of their colours.
        finished: Ids of the finished runs. The first epoch of a run is left out where there are more.

    Returns:
        The plot, or None if no throughput was recorded or the arms are too many for single bars.
    """
    if schema.IMAGES_PER_S not in epochs or len(arms) > BARS:
        return None
    own = epochs[epochs["run_id"].isin(finished)]
    own = own[own["epoch"].gt(0) | own.groupby("run_id")["epoch"].transform("max").eq(0)]
    columns = [
        column for column in (schema.IMAGES_PER_S, schema.COMPUTE_IMAGES_PER_S, schema.DATA_WAIT_SHARE) if column in own
    ]
    by_arm = own.groupby(["arm", "run_id"])[columns].median().groupby("arm").mean()
    shown = [arm for arm in arms if arm in by_arm.index]
    if not shown:
        return None
    figure, axes = panel(height=0.8 + 0.42 * len(shown))
    for place, arm in enumerate(shown):
        row = {str(name): float(value) for name, value in zip(columns, by_arm.loc[arm].to_numpy(), strict=True)}
        i = list(arms).index(arm)
        rate = row[schema.IMAGES_PER_S]
        without_wait = row.get(schema.COMPUTE_IMAGES_PER_S, rate)
        axes.barh(-place, without_wait, height=0.3, color=PAPER, edgecolor=colour(i), linewidth=1)
        axes.barh(-place, rate, height=0.3, color=colour(i))
        text = f"{arm}: {number(rate, 0 if rate >= 100 else 1)} images/s"
        if not np.isnan(wait := row.get(schema.DATA_WAIT_SHARE, np.nan)):
            text += f", {percent(wait, 1)} % waiting for data"
        axes.text(0, 0.2 - place, text, transform=axes.get_yaxis_transform(), va="bottom", parse_math=False)
    axes.set(xlabel="training images/s", ylim=(0.4 - len(shown), 0.75))
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.grid(axis="y", visible=False)
    caption = (
        "Filled: images/s of a run, the median over its epochs without the first, as a mean over seeds. Hollow: what "
        "it would be if batches were always ready. Waiting is the share of rank 0's training time."
    )
    return Plot(name="throughput", title="Throughput and waiting for data", caption=caption, figure=figure)


def _error_bars(row: pd.Series, column: str, scale: float) -> list[list[float]] | None:
    """Compute the lengths of the error bars of a share, cut at 0 and 1; None if the value has no interval."""
    low, high = row[f"{column}_low"], row[f"{column}_high"]
    if np.isnan(low):
        return None
    return [[scale * (row[column] - max(low, 0))], [scale * (min(high, 1) - row[column])]]
