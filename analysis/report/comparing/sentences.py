"""Writes what a comparison of two sides found, and what it cannot show, as plain sentences."""

from __future__ import annotations

from collections.abc import Sequence

from analysis.effects import NO_CLEAR_DIFFERENCE, NOT_CLEAR_AFTER_CORRECTION, Decision
from analysis.report.comparing.differences import Difference, Repeated, shared_arms, unrecorded_settings
from analysis.report.comparing.sides import Side
from analysis.report.findings import Findings, describe_scope
from analysis.report.pairs import arm_sentences
from analysis.report.words import capitalised, could_be_found, listed, points_of
from analysis.tables import counted

MOST_SETTINGS = 3
"""The number of differing settings of which a sentence gives the values."""


def write_comparison_findings(
    a: Side,
    b: Side,
    settings: Sequence[Difference],
    environment: Sequence[Difference],
    decisions: Sequence[Decision],
    repeated: Repeated,
) -> Findings:
    """Write what a comparison found on top-1.

    Args:
        a: One side.
        b: The other side.
        settings: The settings in which the shared arms differ, or all arms if none is shared.
        environment: The facts in which the environments differ.
        decisions: For each shared arm, top-1 on side B minus that on side A.
        repeated: The runs with the same key on both sides.
    """
    found = [f"{side.letter} is {side.text}: {describe_scope(side.recorded)}" for side in (a, b)]
    found += [_settings(settings, decisions), _environment(environment)]
    if once := repeated.trained_once:
        belong = f"{counted(once, 'run')} {'belongs' if once == 1 else 'belong'}"
        where = "sides" if a.recorded.experiment == b.recorded.experiment else "experiments"
        names = ", under another arm name" if once == 1 else ", under different arm names"
        found.append(f"{belong} to both {where}{names if repeated.renamed == once else ''}.")
    if repeated.differences:
        number_of, largest = len(repeated.differences), max(map(abs, repeated.differences))
        found.append(
            f"{counted(number_of, 'run')} with the same key {'was' if number_of == 1 else 'were'} trained on each "
            f"side; top-1 differs by at most {points_of(largest)}."
        )
    told = arm_sentences(
        decisions, len(decisions), between="between A and B", than="on B than on A", sizes="B minus A: "
    )
    found += map(capitalised, told)
    return Findings(found=found, open=_open(a, b, settings, environment, decisions))


def _settings(settings: Sequence[Difference], decisions: Sequence[Decision]) -> str:
    alone, of_arms = "", "of the shared arms "
    if not decisions:
        alone = "A and B have no arm in common that is finished on both sides, so that no arms are compared. "
        of_arms = "of all arms together "
    if not settings:
        return f"{alone}The recorded settings {of_arms}are the same on both sides."
    names = list(dict.fromkeys(one.what for one in settings))
    if len(names) <= MOST_SETTINGS and len(settings) == len(names):
        names = [f"{one.what} (A {one.a}, B {one.b})" for one in settings]
    return f"{alone}The settings {of_arms if alone else ''}differ in {listed(names)}."


def _environment(environment: Sequence[Difference]) -> str:
    if not environment:
        return "Nothing that is recorded of the environment differs."
    return f"The environment differs in {listed([_named(one.what) for one in environment])}."


def _named(what: str) -> str:
    """Return the name of a fact as it stands within a sentence."""
    return what if what == "GPUs" else what[0].lower() + what[1:]


def _open(
    a: Side,
    b: Side,
    settings: Sequence[Difference],
    environment: Sequence[Difference],
    decisions: Sequence[Decision],
) -> list[str]:
    lines = []
    facts = [
        counted(number_of, noun)
        for number_of, noun in (
            (len({one.what for one in settings}), "setting"),
            (len(environment), "fact"),
        )
        if number_of
    ]
    if decisions and len({one.what for one in (*settings, *environment)}) > 1:
        facts[-1] += " of the environment" if environment else ""
        lines.append(
            f"A and B differ in {listed(facts)} at once: which of them is behind a difference in top-1 cannot be told."
        )
    shared = set(shared_arms(a.recorded, b.recorded))
    for side in (a, b):
        if alone := [arm for arm in side.recorded.arms if arm not in shared]:
            them = "it" if len(alone) == 1 else "them"
            lines.append(
                f"{listed(alone)} on {side.letter} cannot be compared: the other side has no finished run of {them}."
            )
    unclear = [one for one in decisions if one.verdict in (NO_CLEAR_DIFFERENCE, NOT_CLEAR_AFTER_CORRECTION)]
    if unclear:
        lines.append(could_be_found(unclear))
    if unknown := unrecorded_settings(a.recorded, b.recorded):
        are = "is" if len(unknown) == 1 else "are"
        lines.append(f"{listed(unknown)} {are} recorded on one side only, and cannot be compared.")
    for side in (a, b):
        lines += [f"{side.letter}: {notice}" for notice in side.recorded.notices]
    return lines
