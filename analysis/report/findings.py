"""Writes what an experiment found, and what it cannot show, as plain sentences that can be quoted.

Every number of a sentence is one of the decisions, so that sentences and tables never disagree.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from analysis.comparisons.costs import cost_ratio
from analysis.effects import (
    EQUIVALENT,
    HIGHER,
    INTERACTION,
    LOWER,
    MAX_SEEDS,
    NO_CLEAR_DIFFERENCE,
    NOT_CLEAR_AFTER_CORRECTION,
    PAIRWISE,
    Decision,
)
from analysis.factors import AUX, LABELS, REDUCTION, TOGETHER, baseline, cells, factors
from analysis.frames import Recorded
from analysis.report.completeness import DIVERGED, MARKS, runs_in_state, states
from analysis.report.pairs import arm_sentences
from analysis.report.words import (
    capitalised,
    compared,
    evidence_of,
    listed,
    no_interval,
    p_of,
    points_of,
)
from analysis.statistics import mean
from analysis.tables import MINUS, counted, is_missing, number, percent
from reproduce import schema

SUBJECTS = {
    (LABELS[AUX], "any − none"): "auxiliary classifiers of any kind",
    (LABELS[AUX], "both − none"): "the auxiliary classifiers",
    (LABELS[AUX], "aux1 − none"): "the first auxiliary classifier alone",
    (LABELS[AUX], "aux2 − none"): "the second auxiliary classifier alone",
    (LABELS[REDUCTION], "reduced − unreduced"): "the 1x1 reductions",
    (LABELS[REDUCTION], "reduced − naive"): "the 1x1 reductions, against naive modules,",
}
"""The names of contrasts in sentences, by factor and levels."""
FACTORS = {LABELS[AUX]: "auxiliary classifiers", LABELS[REDUCTION]: "1x1 reductions"}
"""The names of factors in sentences."""
NEGLIGIBLE_COST = 0.05
"""The largest relative difference in multiply-adds that sentences do not mention."""


@dataclass(frozen=True, kw_only=True)
class Findings:
    """What an experiment found, in sentences."""

    found: Sequence[str]
    """What the runs show."""
    open: Sequence[str]
    """What cannot be concluded from them, and why."""


def write_findings(recorded: Recorded, decisions: Sequence[Decision]) -> Findings:
    """Write what an experiment found on top-1.

    Args:
        recorded: The experiment.
        decisions: The contrasts on top-1, as `analysis.effects.decide_effects` decides them.
    """
    finished = recorded.finished
    if finished.empty:
        return Findings(found=[_nothing(recorded)], open=[*_unfinished(recorded), *_design(recorded, decisions)])
    found = [describe_scope(recorded)]
    if not decisions:
        found.append(_only_arm(finished))
    main = [one for one in decisions if one.kind not in (PAIRWISE, INTERACTION)]
    sentences = [_main(one, finished, len(decisions)) for one in main]
    sentences += [_interaction(one, len(decisions)) for one in decisions if one.kind == INTERACTION]
    sentences += _pairs([one for one in decisions if one.kind == PAIRWISE], finished, len(decisions))
    return Findings(
        found=[
            *found,
            *(f"In this training {text}" if i == 0 else capitalised(text) for i, text in enumerate(sentences)),
        ],
        open=[*_unfinished(recorded), *_design(recorded, decisions), *_power(decisions), _reach(recorded)],
    )


# --- what was found -----------------------------------------------------------------------------------


def describe_scope(recorded: Recorded) -> str:
    """Write how many runs are finished, and how they were trained."""
    finished = recorded.finished
    seeds = counted(finished["seed"].nunique(), "seed")
    return (
        f"{counted(len(finished), 'finished run')} of {counted(finished['arm'].nunique(), 'arm')} with {seeds}"
        f"{_training(finished)}."
    )


def _training(runs: pd.DataFrame) -> str:
    """Format data, resolution and epochs of runs, for example ", trained on imagenette at 48 px for 6 epochs"."""
    parts = []
    for field, before, after in (
        ("data.path", "on", ""),
        ("recipe.resolution", "at", " px"),
        ("recipe.epochs", "for", " epochs"),
    ):
        values = (
            sorted(map(str, runs[field].dropna().unique()), key=lambda text: (len(text), text)) if field in runs else []
        )
        if values:
            unit = after.removesuffix("s") if values == ["1"] else after
            parts.append(f" {before} {listed(values, last='or')}{unit}")
    return f", trained{''.join(parts)}" if parts else ""


def _nothing(recorded: Recorded) -> str:
    runs = recorded.runs
    one = len(runs) == 1
    none = "The only run is not finished" if one else f"None of the {len(runs)} runs is finished"
    states_of = _by_state(recorded) or "without a final top-1"
    arms, seeds = counted(runs["arm"].nunique(), "arm"), counted(runs["seed"].nunique(), "seed")
    return (
        f"{none} ({states_of}), so that nothing is known of {'its' if one else 'their'} accuracy. "
        f"The experiment has {arms} with {seeds}{_training(recorded.described)}."
    )


def _by_state(recorded: Recorded, without: str = "") -> str:
    """Count the runs that are not finished by their state, for example "2 failed and 1 waiting"."""
    left = zip(recorded.runs["outcome"], states(recorded), strict=True)
    found = [state for outcome, state in left if outcome != schema.FINISHED and state != without]
    counts = [f"{found.count(state)} {state}" for state in MARKS if state in found]
    return listed(counts) if counts else ""


def _only_arm(finished: pd.DataFrame) -> str:
    top1 = mean(finished[schema.FINAL_TOP1])
    seeds = counted(top1.n, "seed")
    arm = finished["arm"].iloc[0]
    if is_missing(top1.low):
        why = "one run has no interval" if top1.n == 1 else "without an interval, because the seeds agree exactly"
        return f"The arm {arm} reached a top-1 of {percent(top1.value, 1)} % ({seeds}; {why})."
    ends = f"{percent(max(top1.low, 0), 1)} to {percent(min(top1.high, 1), 1)}"
    if cut := [bound for bound, beyond in (("0 %", top1.low < 0), ("100 %", top1.high > 1)) if beyond]:
        ends += f", cut at {listed(cut)}"
    return f"The arm {arm} reached a top-1 of {percent(top1.value, 1)} % (95 % interval {ends}, {seeds})."


def _main(one: Decision, finished: pd.DataFrame, family: int) -> str:
    subject = _subject(one)
    value = one.estimate.value
    size, ends, saved = points_of(value), evidence_of(one, signed=False), _cost(one, finished)
    match one.verdict:
        case verdict if verdict == HIGHER:
            return f"{subject} raised top-1 by {size} ({ends}){saved}."
        case verdict if verdict == LOWER:
            change = "cost" if one.effect == LABELS[REDUCTION] else "lowered top-1 by"
            return f"{subject} {change} {size} ({ends}){saved}."
        case verdict if verdict == EQUIVALENT:
            return (
                f"{subject} changed top-1 by no more than the margin of {points_of(one.margin)} "
                f"({evidence_of(one)}; {p_of(one.p_equivalence)} for the two one-sided tests){saved}."
            )
        case verdict if verdict == NOT_CLEAR_AFTER_CORRECTION:
            change = "raised" if value > 0 else "lowered"
            return f"{subject} may have {change} top-1 by {size} ({ends}){saved}, but {_corrected(one, family)}."
        case verdict if verdict == NO_CLEAR_DIFFERENCE:
            return f"no clear effect of {subject.rstrip(',')} on top-1 was found ({evidence_of(one)}){saved}."
        case _:
            single = one.estimate.replicates < 2
            rest = "another seed may show the opposite" if single else "there is no spread to compare it with"
            return f"top-1 was {compared(value)} with {subject.rstrip(',')}{saved}; {no_interval(one)}, so that {rest}."


def _interaction(one: Decision, family: int) -> str:
    a, b = (_factor(name) for name in one.effect.split(" × ", 1))
    levels = f" (in {one.contrast})" if TOGETHER in one.effect or "any" in one.contrast else ""
    subject, evidence = f"the effect of {a} on top-1", evidence_of(one)
    match one.verdict:
        case verdict if verdict in (HIGHER, LOWER):
            size = points_of(one.estimate.value)
            return f"{subject} depends on {b}{levels}: the two effects differ by {size} ({evidence})."
        case verdict if verdict == EQUIVALENT:
            return f"{subject} does not depend on {b} by more than the margin of {points_of(one.margin)} ({evidence})."
        case verdict if verdict == NOT_CLEAR_AFTER_CORRECTION:
            return f"{subject} may depend on {b}{levels} ({evidence}), but {_corrected(one, family)}."
        case verdict if verdict == NO_CLEAR_DIFFERENCE:
            return f"it is not clear whether {subject} depends on {b}{levels} ({evidence})."
        case _:
            return f"whether {subject} depends on {b}{levels} cannot be tested, because {no_interval(one)}."


def _pairs(pairs: Sequence[Decision], finished: pd.DataFrame, family: int) -> list[str]:
    if not pairs:
        return []
    base = pairs[0].pairs[0][1]
    return arm_sentences(
        pairs, family, between=f"from {base}", than=f"than that of {base}", cost=lambda one: _cost(one, finished)
    )


def _subject(one: Decision) -> str:
    if (one.effect, one.contrast) in SUBJECTS:
        return SUBJECTS[one.effect, one.contrast]
    names, plus, minus = (text.split(TOGETHER) for text in (one.effect, *one.contrast.split(f" {MINUS} ", 1)))
    changed = [f"{_factor(name)} {level}" for name, level in zip(names, plus, strict=True)]
    return f"{listed(changed)} in place of {listed(minus)}"


def _factor(label: str) -> str:
    return FACTORS.get(label, label)


def _cost(one: Decision, finished: pd.DataFrame) -> str:
    """Format the multiply-adds of a contrast, for example " and saved 63 % of the multiply-adds"."""
    ratio = cost_ratio(one, finished)
    if is_missing(ratio) or abs(ratio - 1) < NEGLIGIBLE_COST:
        return ""
    less, more = percent(1 - ratio, 0), number(ratio, 1 if ratio < 10 else 0)
    if one.kind != PAIRWISE and one.verdict in (HIGHER, LOWER):
        return f" and saved {less} % of the multiply-adds" if ratio < 1 else f", for {more} times the multiply-adds"
    return f", with {less} % fewer multiply-adds" if ratio < 1 else f", with {more} times the multiply-adds"


def _corrected(one: Decision, family: int) -> str:
    p = f"{p_of(one.p_holm)} after Holm's correction"
    return f"among the {counted(family, 'contrast')} of this experiment this is not clear ({p})"


# --- what is open -------------------------------------------------------------------------------------


def _unfinished(recorded: Recorded) -> list[str]:
    runs, lines = recorded.runs, []
    is_any_finished = not recorded.finished.empty
    if lost := runs_in_state(recorded, DIVERGED, finished=False):
        are = "run is" if len(lost) == 1 else "runs are"
        left_out = f"the {are} left out of all means, which are those of runs that trained to the end"
        ended = left_out if is_any_finished else "training ended there"
        lines.append(f"The loss of {listed(lost)} was not finite: {ended}.")
    if worse := runs_in_state(recorded, DIVERGED, finished=True):
        them = "it" if len(worse) == 1 else "them"
        lines.append(
            f"{listed(worse)} trained to the end although the loss ended above where it began or was not finite: "
            f"means take {them} in."
        )
    others = int(runs["outcome"].ne(schema.FINISHED).sum()) - len(lost)
    if others and is_any_finished:
        are = "run is" if len(runs) == 1 else "runs is" if others == 1 else "runs are"
        lines.append(
            f"{others} of {len(runs)} {are} not finished ({_by_state(recorded, DIVERGED)}): "
            "the numbers may still change."
        )
    missing = [arm for arm in recorded.arms if arm not in set(recorded.finished["arm"])]
    if missing and is_any_finished:
        them = "it" if len(missing) == 1 else "them"
        lines.append(f"Nothing can be said of {listed(missing)}: no run of {them} is finished.")
    return lines


def _design(recorded: Recorded, decisions: Sequence[Decision]) -> list[str]:
    finished = recorded.described
    found = factors(finished)
    lines = [
        f"{listed(factor.fields)} change together between these arms: their effects cannot be told apart."
        for factor in found
        if factor.is_confounded
    ]
    if len(found) > 1 and decisions and not cells(finished, found):
        base = baseline(finished, recorded.settings.baseline)
        lines.append(
            f"The arms do not cross {listed([_factor(factor.label) for factor in found])}: each arm is compared with "
            f"{base} alone, and differences to other arms are not tested."
        )
    return lines


def _power(decisions: Sequence[Decision]) -> list[str]:
    """Write what the seeds could have shown, where something is not clear."""
    unclear = [one for one in decisions if one.verdict in (NO_CLEAR_DIFFERENCE, NOT_CLEAR_AFTER_CORRECTION)]
    if not unclear:
        return []
    sizes = sorted(one.estimate.detectable for one in unclear)
    span = points_of(sizes[0]) if len(sizes) == 1 else f"{number(100 * sizes[0], 1)} to {points_of(sizes[-1])}"
    lines = [
        "A difference that is not clear is not shown to be absent: with this spread and these seeds, one of "
        f"{span} is found with a probability of 80 %."
    ]
    needed = [int(one.seeds) for one in unclear if not is_missing(one.seeds)]
    if needed:
        most = f"{max(needed)} seeds" if max(needed) < MAX_SEEDS else f"over {MAX_SEEDS} seeds"
        lines.append(
            f"Finding {points_of(unclear[0].margin)}, the margin of this experiment, takes about {most} an arm."
        )
    return lines


def _reach(recorded: Recorded) -> str:
    norm = recorded.finished.get("network.norm")
    norms = set(norm.dropna()) if norm is not None else set()
    without = "; nor for networks without normalisation, such as the paper's" if norms == {"batch"} else ""
    if recorded.finished["arm"].value_counts().max() < 2:
        return (
            "Each arm has a single run: none of this is shown for other seeds, other data, image sizes or "
            f"lengths of training{without}."
        )
    return (
        "All of this holds for other seeds of the same training. It is not shown for other data, image sizes or "
        f"lengths of training{without}."
    )
