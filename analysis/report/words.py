"""The words of generated sentences: numbers with their intervals, lists of names, reasons."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from analysis.effects import Decision
from analysis.tables import counted, is_missing, number, p_value, percent, with_sign_of_zero

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
    low, high = (with_sign_of_zero(number(100 * end, digits), end) for end in (estimate.low, estimate.high))
    value = f"{signed_points(one, digits)} points, " if signed else ""
    return f"{value}95 % interval {low} to {high}, {seeds_of(one)}"


def seeds_of(one: Decision) -> str:
    return between(one.estimate.replicates, one.estimate.most, "seed")


def between(least: int, most: int, noun: str) -> str:
    """Format a number that lies between two, for example "3 seeds", "2 or 3 seeds" or "2 to 5 seeds"."""
    return counted(most, noun) if least == most else f"{least} {'or' if most == least + 1 else 'to'} {most} {noun}s"


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


def more_or_less(ratio: float) -> str:
    """Say how much a cost with this ratio is, for example "63 % fewer", "3 % more" or "2.7 times the"."""
    if ratio < 1:
        return f"{percent(1 - ratio, 0)} % fewer"
    return f"{percent(ratio - 1, 0)} % more" if ratio < 1.5 else f"{number(ratio, 1 if ratio < 10 else 0)} times the"


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


def could_be_found(unclear: Sequence[Decision]) -> str:
    """Say how large a difference has to be to be found, of decisions that are not clear and have intervals."""
    sizes = sorted(one.detectable for one in unclear)
    span = points_of(sizes[0]) if len(sizes) == 1 else f"{number(100 * sizes[0], 1)} to {points_of(sizes[-1])}"
    corrected = " after Holm's correction" if unclear[0].family > 1 else ""
    return (
        "A difference that is not clear is not shown to be absent: with this spread and these seeds, a true difference "
        f"of {span} would be found{corrected} with a probability of {'at least ' if corrected else ''}80 %."
    )


def sizes_of(decisions: Sequence[Decision]) -> str:
    """List the estimates of decisions, for example "a +0.8, b −0.2 points"; of a single one, with its interval."""
    first = decisions[0]
    if len(decisions) == 1:
        return f"{signed_points(first)} points" if is_missing(first.estimate.low) else evidence_of(first)
    sizes = ", ".join(f"{one.effect} {signed_points(one)}" for one in decisions[:MOST_NAMES])
    more = f", and {len(decisions) - MOST_NAMES} more" if len(decisions) > MOST_NAMES else ""
    return f"{sizes} points{more}"
