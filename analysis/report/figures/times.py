"""Draws what is measured over time: reaching a target accuracy, and telemetry."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
import pandas as pd

from analysis.comparisons.survival import kaplan_meier
from analysis.details.telemetry import SUMMARISED_FROM, Strip
from analysis.report.figures.style import FAINT, INK, STYLE, Plot, colour, line, marker, panel
from analysis.tables import counted, percent


@mpl.rc_context(STYLE)
def time_to_target(times: pd.DataFrame, arms: Sequence[str], target: float) -> Plot | None:
    """Draw the share of runs that have reached a target accuracy, by training time.

    Runs that have not reached it are censored where their training ended (Kaplan and Meier 1958).

    Args:
        times: A frame as `analysis.details.targets.times_to_target` returns it.
        arms: Names of the arms, in the order of their colours.
        target: The target, as a fraction.

    Returns:
        The plot, or None if no run reached the target or no times were recorded.
    """
    known = times.dropna(subset=["seconds"])
    if known.empty or not known["reached"].any():
        return None
    unit, scale = ("hours", 3600) if known["seconds"].max() > 2 * 3600 else ("minutes", 60)
    figure, axes = panel()
    end = known["seconds"].max() / scale
    for i, arm in enumerate(arms):
        own = known[known["arm"] == arm]
        if own.empty:
            continue
        reached = own["reached"].to_numpy(dtype=bool)
        seconds = own["seconds"].to_numpy(dtype=float) / scale
        if reached.any():
            moments, shares = kaplan_meier(seconds, reached)
            x = np.concatenate([[0.0], moments, [end]])
            y = 100 * np.concatenate([[0.0], shares, shares[-1:]])
        else:
            x, y = np.array([0.0, end]), np.zeros(2)
        axes.step(x, y, where="post", **line(i))
        axes.plot(x[-1:], y[-1:], color=colour(i), marker=marker(i), gid=f"arm-{i}")
    axes.set(xlabel=f"{unit} of training and validation", ylabel="runs that reached it, %", ylim=(-4, 104))
    censored = int((~known["reached"]).sum())
    caption = f"Share of an arm's runs whose validation top-1 has reached {percent(target, 1)} %, by Kaplan and Meier."
    if censored:
        count = "counts" if censored == 1 else "count"
        caption += f" {counted(censored, 'run')} never reached it and {count} as censored."
    return Plot(
        name="time-to-target", title=f"Time until top-1 reaches {percent(target, 1)} %", caption=caption, figure=figure
    )


@mpl.rc_context(STYLE)
def telemetry(strips: Sequence[Strip], arms: Sequence[str], runs: int) -> Plot | None:
    """Draw how busy the devices of runs were over time, one strip above the other.

    Args:
        strips: The strips, from top to bottom.
        arms: Names of the arms, in the order of their colours.
        runs: Number of runs of the experiment.

    Returns:
        The plot, or None if there are no strips.
    """
    if not strips:
        return None
    figure, axes = panel(height=0.7 + 0.42 * len(strips))
    longest = max(float(strip.minutes[-1]) for strip in strips)
    unit, scale = ("hours", 60.0) if longest > 180 else ("minutes", 1.0)
    for place, strip in enumerate(strips):
        i = list(arms).index(strip.arm)
        x, base = strip.minutes / scale, -float(place)
        height = 0.55 * strip.percent / 100
        axes.fill_between([0, x[-1]], base, base + 0.55, color=FAINT, alpha=0.5, linewidth=0)
        axes.fill_between(x, base, base + height, color=colour(i), alpha=0.75, linewidth=0)
        for moment in strip.resumed:
            axes.plot([moment / scale] * 2, [base, base + 0.55], color=INK, linewidth=1, linestyle=(0, (2, 1)))
        name = f"{strip.name}: {'GPU busy' if strip.on_gpu else 'CPU of the host'}, {strip.aside}"
        name += ", SHARED GPU" if strip.shared else ""
        axes.text(
            0, base + 0.57, name, transform=axes.get_yaxis_transform(), va="bottom", fontsize=8.5, parse_math=False
        )
    axes.set(xlabel=f"{unit} since the run began", ylim=(0.85 - len(strips) - 0.1, 1.0), xlim=(0, None))
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.grid(axis="y", visible=False)
    parts = ["The height of a strip is 100 %."]
    if any(strip.on_gpu for strip in strips):
        parts.append(
            "GPU busy is the share of time in which any kernel ran on the device, as NVML reports it: a GPU that is "
            "100 % busy may still use a small part of its arithmetic units."
        )
    if any(strip.shared for strip in strips):
        parts.append("On a shared GPU, the figures are the device's, not the run's.")
    if not all(strip.on_gpu for strip in strips):
        parts.append("CPU use is that of the whole host, so that runs side by side are counted together.")
    if any(strip.resumed for strip in strips):
        parts.append("Dashed lines mark where the run was resumed; the pause before is left out.")
    if runs >= SUMMARISED_FROM:
        parts.append(f"One run of each arm is shown, of {runs} runs.")
    return Plot(name="telemetry", title="How busy the devices were", caption=" ".join(parts), figure=figure)
