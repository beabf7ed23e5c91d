"""Draws all figures of a report."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pandas as pd

from analysis.report.figures.contrasts import forest, interaction
from analysis.report.figures.costs import pareto, throughput
from analysis.report.figures.curves import gradients, learning_curves
from analysis.report.figures.style import Plot
from analysis.report.figures.times import telemetry, time_to_target
from analysis.report.sections import Sections
from reproduce import schema


@dataclass(frozen=True, kw_only=True)
class Plots:
    """The figures of a report, by its parts. A part without figures is empty."""

    effects: Sequence[Plot]
    curves: Sequence[Plot]
    targets: Sequence[Plot]
    costs: Sequence[Plot]
    gradients: Sequence[Plot]
    telemetry: Sequence[Plot]
    throughput: Sequence[Plot]

    def __iter__(self) -> Iterator[Plot]:
        """All figures, in the order of the report."""
        for part in (
            self.effects,
            self.curves,
            self.targets,
            self.costs,
            self.gradients,
            self.telemetry,
            self.throughput,
        ):
            yield from part


def draw_plots(sections: Sections) -> Plots:
    """Draw all figures of a report."""
    recorded, arms = sections.recorded, sections.recorded.arms
    epochs, finished = recorded.finite_epochs, set(recorded.finished["run_id"])
    return Plots(
        effects=_drawn(forest(sections.top1_effects), _interaction(sections)),
        curves=learning_curves(epochs, arms, finished),
        targets=_drawn(time_to_target(sections.times, arms, sections.target)),
        costs=pareto(sections.summary),
        gradients=gradients(epochs, arms, finished, recorded.not_finite),
        telemetry=_drawn(telemetry(sections.strips, arms, len(recorded.runs))),
        throughput=_drawn(throughput(epochs, arms, finished)),
    )


def _interaction(sections: Sections) -> Plot | None:
    if len(sections.factors) < 2:
        return None
    (across, levels), (lines, others) = sections.factors[:2]
    top1 = sections.recorded.finished[schema.FINAL_TOP1]
    return interaction(pd.DataFrame({"across": levels, "lines": others, "top1": top1}), across, lines)


def _drawn(*plots: Plot | None) -> list[Plot]:
    return [plot for plot in plots if plot is not None]
