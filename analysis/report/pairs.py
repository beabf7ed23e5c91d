"""Writes sentences on single arms: each is compared with the baseline, or with itself on the other of two sides."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from analysis.effects import (
    EQUIVALENT,
    HIGHER,
    LOWER,
    NO_CLEAR_DIFFERENCE,
    NO_INTERVAL,
    NOT_CLEAR_AFTER_CORRECTION,
    Decision,
)
from analysis.report.words import MOST_NAMES, evidence_of, listed, no_interval, points_of, sizes_of
from analysis.tables import counted

MOST_CLEAR = 6
"""The number of arms with a clear difference that have a sentence each."""


def arm_sentences(
    decisions: Sequence[Decision],
    family: int,
    *,
    between: str,
    than: str,
    sizes: str = "",
    cost: Callable[[Decision], str] = lambda _: "",
) -> list[str]:
    """Write a sentence for each arm with a clear difference, and one for all other arms of the same verdict.

    Args:
        decisions: The comparisons, whose effect is the name of the arm.
        family: The number of comparisons in the experiment.
        between: Between what there is a difference, such as "from base" or "between A and B".
        than: What follows "higher" or "lower", such as "than that of base" or "on B than on A".
        sizes: What the sizes are, with its punctuation, such as "B minus A: ".
        cost: What follows the numbers of a clear difference, such as ", with 20 % fewer multiply-adds".

    Returns:
        The sentences, which begin with a small letter.
    """
    clear = [one for one in decisions if one.verdict in (HIGHER, LOWER)]
    clear.sort(key=lambda one: -abs(one.estimate.value))
    sentences = [
        f"top-1 of the arm {one.effect} was {_size(one)} {than} ({evidence_of(one, signed=False)}){cost(one)}."
        for one in clear[:MOST_CLEAR]
    ]
    if rest := clear[MOST_CLEAR:]:
        sentences.append(f"{_arms(rest)} differed clearly {between} as well.")
    for verdict, told in (
        (EQUIVALENT, "differed {between} by no more than the margin of {margin}"),
        (NOT_CLEAR_AFTER_CORRECTION, "may differ {between}, but not clearly among {family}"),
        (NO_CLEAR_DIFFERENCE, "did not differ clearly {between}"),
        (NO_INTERVAL, "cannot be tested for a difference {between}, because {why}"),
    ):
        if own := [one for one in decisions if one.verdict == verdict]:
            said = told.format(
                between=between,
                margin=points_of(own[0].margin),
                family=counted(family, "comparison"),
                why=no_interval(own[0]),
            )
            sentences.append(f"{_arms(own)} {said} ({sizes}{sizes_of(own)}).")
    return sentences


def _size(one: Decision) -> str:
    """Format a clear difference, even one that is rounded to nothing, for example "2.1 points higher"."""
    size = points_of(one.estimate.value)
    return f"{'less than 0.1 points' if size.startswith('0.0 ') else size} {one.verdict}"  # higher or lower


def _arms(decisions: Sequence[Decision]) -> str:
    if len(decisions) > MOST_NAMES:
        return f"{len(decisions)} arms"
    noun = "the arm" if len(decisions) == 1 else "the arms"
    return f"{noun} {listed([one.effect for one in decisions])}"
