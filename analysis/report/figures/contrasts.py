"""Draws effects: the forest plot, and how the effect of one factor depends on another."""

from __future__ import annotations

import textwrap

import matplotlib as mpl
import numpy as np
import pandas as pd

from analysis.report.figures.style import FAINT, INK, PALETTE, PAPER, STYLE, Plot, colour, line, marker, panel
from analysis.report.results import effect_name
from analysis.statistics import mean

LABEL, LABEL_LINE = 58, 0.36
"""Number of characters in a line of a label, which fit into a panel's width, and the height of a line, in rows."""
LEVELS = 8
"""Number of levels of a factor up to which its interaction is drawn."""


@mpl.rc_context(STYLE)
def forest(effects: pd.DataFrame) -> Plot | None:
    """Draw a forest plot: effects on top-1 with their intervals, and a band of effects that are too small to detect.

    Args:
        effects: Effects on top-1, in the format of `analysis.effects.effects`.

    Returns:
        The plot, or None if there are no effects.
    """
    if effects.empty:
        return None
    rows = effects.reset_index(drop=True)
    labels = [textwrap.wrap(effect_name(row), LABEL) or [""] for _, row in rows.iterrows()]
    places = np.cumsum([-1 - LABEL_LINE * (len(label) - 1) for label in labels]) + 1
    figure, axes = panel(height=0.6 + 0.45 * (1 - places[-1]))
    axes.axvline(0, color=INK, linewidth=0.8)
    for y, label, (_, row) in zip(places, labels, rows.iterrows(), strict=True):
        if row["detectable"] > 0:
            band = 100 * row["detectable"]
            axes.fill_betweenx([y - 0.2, y + 0.2], -band, band, color=FAINT, alpha=0.8, linewidth=0)
        if not np.isnan(row["low"]):
            axes.plot([100 * row["low"], 100 * row["high"]], [y, y], color=colour(0), solid_capstyle="butt")
        axes.plot([100 * row["difference"]], [y], color=colour(0), marker="o" if row["kind"] != "pairwise" else "s")
        # Labels take no part in the layout: a long one would make the axes narrower.
        text = axes.text(0, y + 0.26, "\n".join(label), transform=axes.get_yaxis_transform(), parse_math=False)
        text.set(va="bottom", linespacing=1.15, in_layout=False)
        text.set_bbox({"facecolor": PAPER, "edgecolor": "none", "pad": 0.5})
    axes.set(xlabel="difference in top-1, points", ylim=(places[-1] - 0.5, 0.85 + LABEL_LINE * (len(labels[0]) - 1)))
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.grid(axis="y", visible=False)
    pairwise = set(rows["kind"].eq("pairwise"))
    marks = "Squares: one arm minus the baseline" if pairwise == {True} else "Circles: effects over the whole grid"
    caption = (
        "Estimates with 95 % intervals. Grey: effects too small to be found, after Holm's correction, with a "
        f"probability of 80 %, given the observed spread. {marks}."
    )
    return Plot(name="effects", title="Effects on top-1", caption=caption, figure=figure)


@mpl.rc_context(STYLE)
def beside(arms: pd.DataFrame) -> Plot | None:
    """Draw the top-1 of the same arms on two sides beside each other.

    Args:
        arms: One row for each arm and side, as `analysis.summaries.summarise_arms` returns it, with the column `side`.

    Returns:
        The plot, or None if there are no arms.
    """
    if arms.empty:
        return None
    names = list(arms["arm"].unique())
    figure, axes = panel(height=0.9 + 0.5 * len(names))
    for place, name in enumerate(names):
        for i, (_, row) in enumerate(arms[arms["arm"] == name].iterrows()):
            y = -place - 0.16 * i
            if not np.isnan(row["top1_low"]):
                axes.plot([100 * max(row["top1_low"], 0), 100 * min(row["top1_high"], 1)], [y, y], color=colour(i))
            label = str(row["side"]) if place == 0 else None
            axes.plot([100 * row["top1"]], [y], color=colour(i), marker=marker(i), linestyle="none", label=label)
        axes.text(0, 0.13 - place, name, transform=axes.get_yaxis_transform(), va="bottom", parse_math=False)
    axes.set(xlabel="top-1, %", ylim=(0.5 - len(names), 0.75))
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.grid(axis="y", visible=False)
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2, frameon=False, borderpad=0)
    caption = "Means over the finished runs of an arm on each side, with 95 % intervals."
    return Plot(name="sides", title="Top-1 on both sides", caption=caption, figure=figure)


@mpl.rc_context(STYLE)
def interaction(top1: pd.DataFrame, across: str, lines: str) -> Plot | None:
    """Draw mean top-1 by the levels of one factor, with a line for each level of another.

    Args:
        top1: One row for each finished run, with its levels as the columns `across` and `lines`, and its `top1`.
        across: Name of the factor on the horizontal axis.
        lines: Name of the factor that has the lines.

    Returns:
        The plot, or None if the runs do not cover all combinations of levels or these are too many.
    """
    levels, others = ([str(level) for level in top1[column].unique()] for column in ("across", "lines"))
    cells = {(str(a), str(b)): own.to_numpy(dtype=float) for (a, b), own in top1.groupby(["across", "lines"])["top1"]}
    if any((a, b) not in cells for a in levels for b in others) or max(len(levels), len(others)) > LEVELS:
        return None
    figure, axes = panel()
    for i, level in enumerate(others):
        own = [cells[a, level] for a in levels]
        estimates = [mean(values) for values in own]
        x = np.arange(len(own)) + 0.05 * (i - (len(others) - 1) / 2)
        axes.plot(x, [100 * each.value for each in estimates], color=INK, linestyle=line(i * len(PALETTE))["linestyle"])
        for place, values, each in zip(x, own, estimates, strict=True):
            if not np.isnan(each.low):
                axes.plot([place, place], [100 * max(each.low, 0), 100 * min(each.high, 1)], color=INK, linewidth=1)
            axes.plot(np.full(len(values), place), 100 * values, ".", color=INK, markersize=3, alpha=0.5)
            axes.plot([place], [100 * each.value], color=INK, marker=marker(i), markersize=7)
        end = (x[-1], 100 * estimates[-1].value)
        axes.annotate(level, end, xytext=(9, 0), textcoords="offset points", va="center", parse_math=False)
    axes.set_xticks(range(len(levels)), levels)
    axes.margins(x=0.3)
    axes.set(xlabel=across, ylabel="top-1, %")
    caption = (
        f"Each line is a level of {lines}. Parallel lines mean that the two effects add up. Large marks are means with "
        "95 % intervals, small dots are single runs."
    )
    return Plot(name="interaction", title=f"{across} and {lines} together", caption=caption, figure=figure)
