"""The words of generated sentences: numbers with their intervals, lists of names, reasons."""

from __future__ import annotations

import re
from collections.abc import Iterable

from analysis.effects import Decision
from analysis.tables import counted, number

MOST_NAMES = 8
"""The number of names in a list."""


def evidence_of(one: Decision, *, signed: bool = True) -> str:
    """Format an interval and the seeds, for example "95 % interval 0.8 to 3.4, 3 seeds".

    Args:
        one: The decision.
        signed: Whether the estimate precedes and the ends have their signs. Otherwise the interval is that of the size
            of the difference, whose direction the sentence says.
    """
    estimate = one.estimate if signed or one.estimate.value > 0 else -one.estimate
    low, high = (number(100 * end, 1) for end in (estimate.low, estimate.high))
    value = f"{signed_points(one)} points, " if signed else ""
    return f"{value}95 % interval {low} to {high}, {seeds_of(one)}"


def seeds_of(one: Decision) -> str:
    unequal = one.estimate.n != one.estimate.replicates * len(one.weights)
    return counted(one.estimate.replicates, "seed") + (" or more" if unequal else "")


def points_of(value: float) -> str:
    text = number(100 * abs(value), 1)
    return f"{text} point" if text == "1.0" else f"{text} points"


def signed_points(one: Decision) -> str:
    value = 100 * one.estimate.value
    return f"{'+' if value > 0 and number(value, 1) != '0.0' else ''}{number(value, 1)}"


def compared(value: float) -> str:
    size = points_of(value)
    if size.startswith("0.0 "):
        return "the same"
    return f"{size} {'higher' if value > 0 else 'lower'}"


def no_interval(one: Decision) -> str:
    if one.estimate.replicates < 2:
        return "an arm has a single run, so that another seed may show the opposite"
    return "the seeds agree exactly, so that there is no spread to compare it with"


def listed(names: Iterable[str], last: str = "and") -> str:
    """Join names with commas and a last "and"."""
    *rest, end = names
    if len(rest) >= MOST_NAMES:
        return f"{', '.join(rest[:MOST_NAMES])} {last} {len(rest) + 1 - MOST_NAMES} more"
    return f"{', '.join(rest)} {last} {end}" if rest else end


def capitalised(sentence: str) -> str:
    """Begin a sentence with a capital letter, unless it begins with the name of a field."""
    return sentence if re.match(r"\w+\.\w", sentence) else sentence[0].upper() + sentence[1:]
