"""Says where a verdict was found: the setting of the runs, the floor that the test images set, and when runs began."""

from __future__ import annotations

import math
from collections.abc import Iterable
from datetime import UTC, datetime
from fractions import Fraction

import pandas as pd

from analysis.frames import Recorded
from analysis.tables import percent
from reproduce import schema
from reproduce.claims.design import Design

MOST_IMAGES = 200_000
"""The largest number of validation images that `validation_images` looks for."""
NORM = "network.norm"


def scope(recorded: Recorded) -> str:
    """Format the setting of the finished runs, for example "at 32 px, 6 epochs, with normalisation"."""
    runs = recorded.finished
    places = []
    if "recipe.resolution" in runs:
        places.append(f"at {_span(runs['recipe.resolution'])} px")
    if "recipe.epochs" in runs:
        epochs = _span(runs["recipe.epochs"])
        places.append(f"{epochs} epoch{'' if epochs == '1' else 's'}")
    if NORM in runs:
        norms = set(runs[NORM])
        words = "without" if norms == {"none"} else "with and without" if "none" in norms else "with"
        places.append(f"{words} normalisation")
    return ", ".join(places)


def _span(values: Iterable[object]) -> str:
    numbers = sorted({int(str(value)) for value in values})
    return str(numbers[0]) if len(numbers) == 1 else f"{numbers[0]} to {numbers[-1]}"


def floor(recorded: Recorded) -> str:
    """Format the binomial standard deviation of one network's top-1 on as many images as the runs were validated on.

    Seeds do not lower it, because all networks are judged by the same images (arXiv:2304.01910). It is empty if the
    number of images is unknown.
    """
    top1 = recorded.finished[schema.FINAL_TOP1]
    images, mean = validation_images(top1), float(top1.mean())
    if images is None:
        return ""
    deviation = 100 * math.sqrt(mean * (1 - mean) / images)
    return f"{images} validation images: binomial standard deviation {deviation:.1f} points at {percent(mean, 0)} %"


def validation_images(top1: pd.Series) -> int | None:
    """Find the number of validation images from accuracies, which are whole numbers of images over it.

    Returns:
        The least common denominator of the accuracies, or None if it is above `MOST_IMAGES` or has too few accuracies
        to be the number itself and no divisor of it.
    """
    fractions = [Fraction(float(value)).limit_denominator(MOST_IMAGES) for value in top1]
    common = math.lcm(*(fraction.denominator for fraction in fractions))
    exact = all(abs(float(fraction) - value) < 1e-12 for fraction, value in zip(fractions, top1, strict=True))
    return common if exact and len(fractions) >= 6 and 1 < common <= MOST_IMAGES else None


def first_start(recorded: Recorded) -> datetime | None:
    """Return when the first of the finished runs started, in UTC; None if it was not recorded."""
    runs = recorded.finished
    if "started" not in runs or runs["started"].isna().all():
        return None
    return datetime.fromtimestamp(float(runs["started"].min()), UTC)


def dating(design: Design, started: datetime | None) -> str:
    """Format when a design was written, and whether that was after the runs that it judges.

    Args:
        design: The design.
        started: When the first of the runs started; None if there are no runs or it is unknown.
    """
    if started is None:
        return design.dated
    if design.written_after(started):
        return f"{design.dated}: design written after its runs ({started:%Y-%m-%d})"
    changed = "; ".join(f"{change.written:%Y-%m-%d}, {change.what}" for change in design.changed_after(started))
    return f"{design.dated}: before its runs" + (f", changed after its runs began: {changed}" if changed else "")
