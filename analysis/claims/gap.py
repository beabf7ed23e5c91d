"""Measures the generalisation gap of recorded runs: how it grows with parameters and with fewer training images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import numpy as np
import pandas as pd

from analysis.claims.pairs import difference_text, power_text, require, scale
from analysis.effects import estimate_contrast
from analysis.frames import Recorded
from analysis.statistics import Estimate, Ratio
from analysis.tables import percent
from reproduce import schema
from reproduce.claims.verdicts import Measured, NotMeasured

FRACTION = "data.train_fraction"


def overfitting(recorded: Recorded) -> Measured[float | Estimate | Ratio | None]:
    """Measure how the generalisation gap grows with parameters and with fewer training images.

    The gap is top-1 on training images minus top-1 on validation images, both with the crops of validation. The slope
    of the gap over the binary logarithm of the number of parameters is that of a line fitted to the arms' means.

    Returns:
        The measured values by name:

        - `slope on most images`, `slope on fewest images`: mean slope in percentage points per doubling of parameters,
          among the runs with the largest and with the smallest fraction of the training images.
        - `gap on fewest less on most`: difference of the gaps in percentage points, over the networks that were trained
          on both.
    """
    runs = recorded.finished
    require(runs, schema.FINAL_TRAIN_TOP1_PLAIN, schema.COST_PARAMETERS)
    gap = 100 * (runs[schema.FINAL_TRAIN_TOP1_PLAIN] - runs[schema.FINAL_TOP1])
    table = runs.assign(gap=gap, fraction=runs[FRACTION].astype(float), doublings=np.log2(runs[schema.COST_PARAMETERS]))
    groups = table.groupby(["fraction", "doublings"])
    samples_of = {key: pd.Series(own["gap"].to_numpy(), own["seed"]) for key, own in groups}
    gaps = cast("dict[tuple[float, float], pd.Series]", samples_of)
    fractions = sorted({fraction for fraction, _ in gaps})
    few, many = ({size: gap for (of, size), gap in gaps.items() if of == end} for end in (fractions[0], fractions[-1]))
    common = sorted(few.keys() & many.keys())
    if len(fractions) < 2 or len(common) < 2:
        raise NotMeasured("all runs have the same fraction of the images, or the same number of parameters")
    paired = recorded.settings.paired
    slopes = [_slope(own, paired=paired) for own in (many, few)]
    samples = [own[size] for own in (few, many) for size in common]
    weights = [sign / len(common) for sign in (1, -1) for _ in common]
    fewer = estimate_contrast(samples, weights, paired=paired)
    return Measured(
        values={
            "slope on most images": slopes[0],
            "slope on fewest images": slopes[1],
            "gap on fewest less on most": fewer,
        },
        summary="; ".join(
            f"on {percent(fraction, 0)} % of the images a gap of {_mean(own):.1f} points, "
            f"{difference_text(slope)} for each doubling of parameters"
            for fraction, own, slope in zip((fractions[-1], fractions[0]), (many, few), slopes, strict=True)
        ),
        evidence=f"{scale(recorded)}; {power_text(slopes[0])}; the gap on fewer images less that on more "
        f"{difference_text(fewer)}",
    )


def _slope(gaps: Mapping[float, pd.Series], *, paired: bool) -> Estimate:
    """Estimate the slope of a least-squares line through the means of samples, which are given by their place."""
    places = np.array(list(gaps))
    centred = places - places.mean()
    weights = centred / (centred @ centred)
    kept = [(gap, weight) for gap, weight in zip(gaps.values(), weights, strict=True) if weight]
    return estimate_contrast([gap for gap, _ in kept], [weight for _, weight in kept], paired=paired)


def _mean(gaps: Mapping[float, pd.Series]) -> float:
    return float(np.mean([gap.mean() for gap in gaps.values()]))
