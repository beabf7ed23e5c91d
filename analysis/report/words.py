"""The words of generated sentences: numbers with their intervals, lists of names, reasons."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from analysis.effects import Decision
from analysis.tables import counted, is_missing, number, p_value

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
    narrow = 100 * estimate.half_width
    digits = 1 if narrow >= 0.2 else 2 if narrow >= 0.02 else 3
    low, high = (number(100 * end, digits) for end in (estimate.low, estimate.high))
    value = f"{signed_points(one, digits)} points, " if signed else ""
    return f"{value}95 % interval {low} to {high}, {seeds_of(one)}"


def seeds_of(one: Decision) -> str:
    unequal = one.estimate.n != one.estimate.replicates * len(one.weights)
    return counted(one.estimate.replicates, "seed") + (" or more" if unequal else "")


def points_of(value: float) -> str:
    text = number(100 * abs(value), 1)
    return f"{text} point" if text == "1.0" else f"{text} points"


def signed_points(one: Decision, digits: int = 1) -> str:
    value = 100 * one.estimate.value
    text = number(value, digits)
    return f"+{text}" if value > 0 and text.strip("0.") else text


def compared(value: float) -> str:
    size = points_of(value)
    if size.startswith("0.0 "):
        return "the same"
    return f"{size} {'higher' if value > 0 else 'lower'}"


def p_of(p: float) -> str:
    """Format a p value with its name, for example "p = 0.021" or "p < 0.001"."""
    text = p_value(p)
    return f"p {text}" if text.startswith("<") else f"p = {text}"


def no_interval(one: Decision) -> str:
    """Say why a contrast has no interval."""
    if one.estimate.replicates < 2:
        return "an arm has a single run"
    return "the seeds agree exactly"


def listed(names: Iterable[str], last: str = "and") -> str:
    """Join names with commas and a last "and"."""
    *rest, end = names
    if len(rest) >= MOST_NAMES:
        return f"{', '.join(rest[:MOST_NAMES])} {last} {len(rest) + 1 - MOST_NAMES} more"
    return f"{', '.join(rest)} {last} {end}" if rest else end


def capitalised(sentence: str) -> str:
    """Begin a sentence with a capital letter, unless it begins with the name of a field."""
    return sentence if re.match(r"\w+\.\w", sentence) else sentence[0].upper() + sentence[1:]


def sizes_of(decisions: Sequence[Decision]) -> str:
    """List the estimates of decisions, for example "a +0.8, b −0.2 points"; of a single one, with its interval."""
    first = decisions[0]
    if len(decisions) == 1:
        return f"{signed_points(first)} points" if is_missing(first.estimate.low) else evidence_of(first)
    sizes = ", ".join(f"{one.effect} {signed_points(one)}" for one in decisions[:MOST_NAMES])
    more = f", and {len(decisions) - MOST_NAMES} more" if len(decisions) > MOST_NAMES else ""
    return f"{sizes} points{more}"
