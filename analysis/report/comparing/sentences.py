"""Writes what a comparison of two sides found, and what it cannot show, as plain sentences."""

from __future__ import annotations

from collections.abc import Sequence

from analysis.effects import NO_CLEAR_DIFFERENCE, NOT_CLEAR_AFTER_CORRECTION, Decision
from analysis.report.comparing.differences import Difference, shared_arms, unrecorded_settings
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
    trained_once: int,
    repeated: Sequence[float],
) -> Findings:
    """Write what a comparison found on top-1.

    Args:
        a: One side.
        b: The other side.
        settings: The settings in which the arms differ.
        environment: The facts in which the environments differ.
        decisions: For each shared arm, top-1 on side B minus that on side A.
        trained_once: The number of runs that both sides hold.
        repeated: The differences in top-1 of runs with the same key that were trained on each side.
    """
    found = [f"{side.letter} is {side.text}: {describe_scope(side.recorded)}" for side in (a, b)]
    found += [_settings(settings, decisions), _environment(environment)]
    if trained_once:
        was = "run is" if trained_once == 1 else "runs are"
        found.append(f"{trained_once} {was} one training that both sides hold.")
    if repeated:
        largest = max(map(abs, repeated))
        found.append(
            f"{counted(len(repeated), 'run')} with the same key {'was' if len(repeated) == 1 else 'were'} trained on "
            f"each side; top-1 differs by at most {points_of(largest)}."
        )
    told = arm_sentences(
        decisions, len(decisions), between="between A and B", than="on B than on A", sizes="B minus A: "
    )
    found += map(capitalised, told)
    return Findings(found=found, open=_open(a, b, settings, environment, decisions))


def _settings(settings: Sequence[Difference], decisions: Sequence[Decision]) -> str:
    if not decisions:
        return "A and B have no arm in common that is finished on both sides, so that nothing is compared."
    if not settings:
        return "The recorded settings of the shared arms are the same on both sides."
    names = list(dict.fromkeys(one.what for one in settings))
    if len(names) <= MOST_SETTINGS and len(settings) == len(names):
        return f"The settings differ in {listed([f'{one.what} (A {one.a}, B {one.b})' for one in settings])}."
    return f"The settings differ in {listed(names)}."


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
    if len({one.what for one in (*settings, *environment)}) > 1:
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
