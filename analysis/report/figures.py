"""Draws a report's figures as inline SVG elements.

The elements need no fonts other than the page's and take their colours from its style, so that they are legible on
light and on dark pages. An arm has the same colour and marker in every figure of a report. Matplotlib's global settings
are changed while a figure is drawn, so the functions must not run in several threads.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MaxNLocator, NullFormatter

from analysis.tables import counted
from reproduce import schema

INK, FAINT = "#010203", "#040506"
"""Placeholders for the colours of text and of lines. In the SVG, variables of the page's style replace them."""
PALETTE = [
    ("#0067a5", "#5aaeea"),
    ("#c2500a", "#f0883e"),
    ("#00845f", "#3fc69b"),
    ("#a8518a", "#e08cc4"),
    ("#7a6a00", "#d6c33a"),
    ("#5b5f6b", "#a9aebb"),
    ("#3f3fae", "#9a9af5"),
    ("#a01f35", "#ff7f8f"),
]
"""Colours of the arms on light and on dark pages, for colour-blind readers after the palette of Okabe and Ito."""
MARKERS = ["o", "s", "^", "D", "v", "P", "X", "*"]
"""Markers of the arms, as Matplotlib names them."""
WIDTH, HEIGHT = 4.5, 3.1
"""Size of a panel in inches. It is about as wide as the screen of a phone, so that text keeps its size there."""
STAGES = ["stem", "3", "4", "5", "head"]
"""Stages of the network whose gradients are drawn, from input to output."""

STYLE: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.size": 9.5,
    "axes.labelsize": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.6,
    "axes.grid": True,
    "grid.color": FAINT,
    "grid.linewidth": 0.6,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "lines.linewidth": 1.8,
    "lines.markersize": 5,
    "svg.fonttype": "none",
    "svg.hashsalt": "deeper",
    "figure.constrained_layout.use": True,
}


@dataclass(frozen=True)
class Plot:
    """A figure of the report: an SVG element with a title and a caption."""

    title: str
    svg: str
    caption: str


def colour(index: int) -> str:
    """Return the colour in which to draw the arm with this index, counted from 0.

    It is the colour for light pages. In the SVG, the page's style variable `--arm-INDEX` replaces it. Arms beyond the
    end of `PALETTE` get the first colours again.
    """
    return PALETTE[index % len(PALETTE)][0]


def marker(index: int) -> str:
    """Return the marker of the arm with this index, counted from 0. Arms beyond the end of `MARKERS` start again."""
    return MARKERS[index % len(MARKERS)]


@mpl.rc_context(STYLE)
def learning_curves(epochs: pd.DataFrame, arms: Sequence[str], finished: set[str]) -> list[Plot]:
    """Draw validation top-1 and training loss by epoch, with a thin line for each run and a thick one for the mean.

    Args:
        epochs: Epochs in the format of `analysis.frames.Recorded.finite_epochs`.
        arms: Names of the arms, in the order of their colours.
        finished: Ids of the finished runs, over which the mean is taken.

    Returns:
        One plot for each of the two metrics that was recorded.
    """
    plots = []
    for metric, title, label, scale in (
        (schema.VAL_TOP1, "Validation top-1 by epoch", "top-1, %", 100),
        (schema.TRAIN_LOSS_MAIN, "Training loss of the main classifier by epoch", "cross-entropy", 1),
    ):
        if metric not in epochs:
            continue
        figure, axes = _panel()
        for i, arm in enumerate(arms):
            curves = epochs[epochs["arm"] == arm].pivot(index="epoch", columns="run_id", values=metric) * scale
            if curves.empty:
                continue
            x = curves.index.to_numpy() + 1
            axes.plot(x, curves.to_numpy(), color=colour(i), linewidth=0.7, alpha=0.4)
            average = curves[[run_id for run_id in curves if run_id in finished]].mean(axis=1).dropna()
            axes.plot(average.index + 1, average, color=colour(i))
            axes.plot(average.index[-1:] + 1, average.iloc[-1:], color=colour(i), marker=marker(i))
        axes.set(xlabel="epoch", ylabel=label)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
        caption = "Thick lines: means over finished runs. Thin lines: single runs."
        plots.append(Plot(title, _svg(figure, metric), caption))
    return plots


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
    figure, axes = _panel(height=0.6 + 0.45 * len(rows))
    axes.axvline(0, color=INK, linewidth=0.8)
    for i, row in rows.iterrows():
        y = -float(str(i))
        if row["detectable"] > 0:
            band = 100 * row["detectable"]
            axes.fill_betweenx([y - 0.2, y + 0.2], -band, band, color=FAINT, alpha=0.8, linewidth=0)
        if not np.isnan(row["low"]):
            axes.plot([100 * row["low"], 100 * row["high"]], [y, y], color=colour(0), solid_capstyle="butt")
        axes.plot([100 * row["difference"]], [y], color=colour(0), marker="o" if row["kind"] != "pairwise" else "s")
        name = row["contrast"] if row["kind"] == "pairwise" else f"{row['effect']}: {row['contrast']}"
        if row["kind"] == "interaction":
            name = f"Interaction {row['effect']}"
        axes.text(0, y + 0.26, name, transform=axes.get_yaxis_transform(), ha="left", va="bottom", parse_math=False)
    axes.set(xlabel="difference in top-1, points", ylim=(-len(rows) + 0.5, 0.85))
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.grid(axis="y", visible=False)
    caption = (
        "Estimates with 95 % intervals. Grey: effects too small to be detected with a power of 80 %, given the "
        "observed spread. Circles: effects over the whole grid. Squares: one arm minus the baseline."
    )
    return Plot("Effects on top-1", _svg(figure, "forest"), caption)


@mpl.rc_context(STYLE)
def against_cost(summary: pd.DataFrame) -> list[Plot]:
    """Draw the arms' top-1 against multiply-adds and against images/s.

    Args:
        summary: One row for each arm, as `analysis.summaries.summarise_arms` returns it. Its index, counted from 0,
            determines the colours.

    Returns:
        One plot for each of the two quantities that was recorded.
    """
    plots = []
    billions = summary["macs"].max() >= 1e9
    unit = "billion" if billions else "million"
    for column, scale, title, label in (
        (
            "macs",
            1e-9 if billions else 1e-6,
            "Top-1 against multiply-adds",
            f"{unit} multiply-adds per image, at evaluation",
        ),
        ("images_per_s", 1, "Top-1 against training throughput", "images/s in training"),
    ):
        drawn = summary[summary[column].notna() & summary["top1"].notna()]
        if drawn.empty:
            continue
        figure, axes = _panel()
        for i, row in drawn.iterrows():
            index = int(str(i))
            axes.errorbar(
                scale * row[column],
                100 * row["top1"],
                yerr=_error_bars(row, "top1", 100),
                color=colour(index),
                marker=marker(index),
                markersize=7,
                elinewidth=1.2,
                capsize=0,
            )
        axes.margins(0.15)
        axes.set(xlabel=label, ylabel="top-1, %")
        # No interval for images/s: they vary with the load of the machine rather than with the seed.
        plots.append(Plot(title, _svg(figure, column), "Means over seeds, with 95 % intervals of top-1."))
    return plots


@mpl.rc_context(STYLE)
def gradients(epochs: pd.DataFrame, arms: Sequence[str], not_finite: Mapping[str, int]) -> list[Plot]:
    """Draw the gradient norm by stage in the first epoch, and the gradient norm of the first stage by epoch.

    Args:
        epochs: Epochs in the format of `analysis.frames.Recorded.finite_epochs`.
        arms: Names of the arms, in the order of their colours.
        not_finite: Number of values that are not finite, by metric, as in `analysis.frames.Recorded`.

    Returns:
        Two plots, or none if no gradient norm was recorded. Captions say how many values are not drawn.
    """
    stages = [
        stage
        for stage in STAGES
        if schema.GRADIENT_NORM + stage in epochs and epochs[schema.GRADIENT_NORM + stage].gt(0).any()
    ]
    if not stages:
        return []
    columns = [schema.GRADIENT_NORM + stage for stage in stages]
    by_stage, axes = _panel()
    by_epoch, over = _panel()
    for i, arm in enumerate(arms):
        own = epochs[epochs["arm"] == arm]
        first = own[own["epoch"] == 0][columns].mean()
        axes.plot(range(len(stages)), first.to_numpy(), color=colour(i), marker=marker(i))
        lowest = own.groupby("epoch")[columns[0]].mean()
        over.plot(lowest.index + 1, lowest.to_numpy(), color=colour(i))
        over.plot(lowest.index[-1:] + 1, lowest.iloc[-1:], color=colour(i), marker=marker(i))
    axes.set_xticks(range(len(stages)), stages)
    axes.set(xlabel="stage, from input to output", ylabel="L2 norm of the gradient")
    over.set(xlabel="epoch", ylabel="L2 norm of the gradient")
    over.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
    for each in (axes, over):
        _log_scale(each)
    caption = "Means over sampled steps and seeds; logarithmic scale."
    left_out = {stage: not_finite.get(schema.GRADIENT_NORM + stage, 0) for stage in stages}
    if any(left_out.values()):
        counts = ", ".join(f"{counted(count, 'epoch')} of stage {stage}" for stage, count in left_out.items() if count)
        caption += f" Norms that are not finite are left out ({counts})."
    return [
        Plot("Gradient norm by stage, first epoch", _svg(by_stage, "gradient-stage"), caption),
        Plot(f"Gradient norm of stage {stages[0]} by epoch", _svg(by_epoch, "gradient-epoch"), caption),
    ]


def _panel(height: float = HEIGHT) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(WIDTH, height))
    return figure, figure.subplots()


def _log_scale(axes: Axes) -> None:
    """Make the y axis logarithmic. If its range is small, label values between the powers of ten as well."""
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    exponents = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
    if len(exponents) < 5:
        steps = (1, 2, 5) if high > 8 * low else range(1, 10)
        ticks = [step * 10.0**e for e in exponents for step in steps]
        axes.yaxis.set_major_locator(FixedLocator([tick for tick in ticks if low <= tick <= high]))
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.yaxis.set_minor_formatter(NullFormatter())


def _error_bars(row: pd.Series, column: str, scale: float) -> list[list[float]] | None:
    """Compute the lengths of the error bars below and above a value; None if the value has no interval."""
    low, high = row[f"{column}_low"], row[f"{column}_high"]
    if np.isnan(low):
        return None
    return [[scale * (row[column] - low)], [scale * (high - row[column])]]


def _svg(figure: Figure, name: str) -> str:
    """Convert a figure to an SVG element with the colours of the page and with ids that no other figure has."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*pt"', r"\1", svg)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*pt"', r"\1", svg)
    svg = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px", svg)
    prefix = re.sub(r"\W", "-", name)
    svg = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{prefix}-", svg)
    variables = {INK: "var(--ink)", FAINT: "var(--line)"}
    variables |= {light: f"var(--arm-{i})" for i, (light, _) in enumerate(PALETTE)}
    return re.sub("|".join(variables), lambda found: variables[found[0]], svg)
