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
    between,
    capitalised,
    compared,
    could_be_found,
    evidence_of,
    listed,
    more_or_less,
    no_interval,
    p_of,
    points_of,
)
from analysis.statistics import mean
from analysis.tables import MINUS, counted, is_missing, percent
from reproduce import schema

SUBJECTS = {
    (LABELS[AUX], "any − none"): "the auxiliary classifiers as a group",
    (LABELS[AUX], "both − none"): "the auxiliary classifiers",
    (LABELS[AUX], "aux1 − none"): "the first auxiliary classifier alone",
    (LABELS[AUX], "aux2 − none"): "the second auxiliary classifier alone",
    (LABELS[REDUCTION], "reduced − unreduced"): "the 1x1 reductions",
    (LABELS[REDUCTION], "reduced − naive"): "the 1x1 reductions, against naive modules,",
}
"""The names of contrasts in sentences, by factor and levels."""
FACTORS = {
    LABELS[AUX]: "auxiliary classifiers",
    LABELS[REDUCTION]: "1x1 reductions",
    "network.branches": "the branches",
    "network.head": "the layer before the classifier",
    "network.norm": "normalisation",
}
"""The names of factors in sentences."""
LEVELS = {
    "network.branches": {"mixed": "branches of mixed kernels"}
    | {kernel: f"only {kernel} branches" for kernel in ("1x1", "3x3", "5x5")},
    "network.head": {"avgpool": "average pooling", "fc": "a fully connected layer"},
    "network.norm": {"batch": "batch normalisation", "none": "no normalisation"},
}
"""The names of levels in sentences, by factor."""
MOST_INTERACTIONS = 2
"""The number of interactions of the same verdict that have a sentence each, unless they are clear."""
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
    sentences += _interactions([one for one in decisions if one.kind == INTERACTION], len(decisions))
    sentences += _pairs([one for one in decisions if one.kind == PAIRWISE], finished, len(decisions))
    return Findings(
        found=[
            *found,
            *(f"In this training, {text}" if i == 0 else capitalised(text) for i, text in enumerate(sentences)),
        ],
        open=[*_unfinished(recorded), *_design(recorded, decisions), *_power(decisions), _reach(recorded)],
    )


# --- what was found -----------------------------------------------------------------------------------


def describe_scope(recorded: Recorded) -> str:
    """Write how many runs are finished, and how they were trained."""
    finished = recorded.finished
    return f"{counted(len(finished), 'finished run')} of {_arms_and_seeds(finished)}{_training(finished)}."


def _arms_and_seeds(runs: pd.DataFrame) -> str:
    """Count arms and their seeds, for example "4 arms, 3 seeds each"."""
    seeds = runs.groupby("arm")["seed"].nunique()
    each = " each" if len(seeds) > 1 else ""
    return f"{counted(len(seeds), 'arm')}, {between(int(seeds.min()), int(seeds.max()), 'seed')}{each}"


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
    return (
        f"{none} ({states_of}), so that nothing is known of {'its' if one else 'their'} accuracy. "
        f"The experiment has {_arms_and_seeds(runs)}{_training(recorded.described)}."
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
            when = "when" if subject.startswith("using ") else "with"
            return (
                f"top-1 was {compared(value)} {when} {subject.rstrip(',')}{saved}; {no_interval(one)}, so that {rest}."
            )


def _interactions(decisions: Sequence[Decision], family: int) -> list[str]:
    """Write a sentence for each interaction that is clear, and one for all others of a verdict if they are many."""
    sentences = []
    for verdict in dict.fromkeys(one.verdict for one in decisions):
        own = [one for one in decisions if one.verdict == verdict]
        if verdict in (HIGHER, LOWER) or len(own) <= MOST_INTERACTIONS:
            sentences += [_interaction(one, family) for one in own]
            continue
        largest = points_of(max((one.estimate.value for one in own), key=abs))
        told = {
            EQUIVALENT: f"are within the margin of {points_of(own[0].margin)}",
            NOT_CLEAR_AFTER_CORRECTION: f"may be there, but are not clear among the {family} contrasts",
            NO_CLEAR_DIFFERENCE: "are not clear",
        }.get(verdict, f"cannot be tested, because {no_interval(own[0])}")
        sentences.append(
            f"{len(own)} interactions, by which the effect of one factor would depend on another, {told} (the largest "
            f"is of {largest}); the table of effects lists them."
        )
    return sentences


def _interaction(one: Decision, family: int) -> str:
    a, b = (_factor(name) for name in one.effect.split(" × ", 1))
    levels = _compared_levels(one) if TOGETHER in one.effect or "any" in one.contrast else ""
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
    if len(names) == 1 and {*plus, *minus} <= LEVELS.get(one.effect, {}).keys():
        of = LEVELS[one.effect]
        return f"using {of[plus[0]]} instead of {of[minus[0]]}"
    changed = [f"{_factor(name)} {level}" for name, level in zip(names, plus, strict=True)]
    return f"{listed(changed)} in place of {listed(minus)}"


def _factor(label: str) -> str:
    names = [FACTORS.get(name, name) for name in label.split(TOGETHER)]
    return f"{listed(names)} together" if len(names) > 1 else names[0]


def _compared_levels(one: Decision) -> str:
    """Format the levels that an interaction compares, for example " (both against none, at 0.2 against 0.1)"."""
    sides = [side.strip("()").split(f" {MINUS} ", 1) for side in one.contrast.split(") × (", 1)]
    told = [" against ".join(" and ".join(level.split(TOGETHER)) for level in side) for side in sides]
    return f" ({', at '.join(told)})"


def _cost(one: Decision, finished: pd.DataFrame) -> str:
    """Format the multiply-adds of a contrast, for example " and saved 63 % of the multiply-adds"."""
    ratio = cost_ratio(one, finished)
    if is_missing(ratio) or abs(ratio - 1) < NEGLIGIBLE_COST:
        return ""
    if one.kind != PAIRWISE and one.verdict in (HIGHER, LOWER):
        if ratio < 1:
            return f" and saved {percent(1 - ratio, 0)} % of the multiply-adds"
        return f", for {more_or_less(ratio)} multiply-adds"
    return f", with {more_or_less(ratio)} multiply-adds"


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
    lines = [could_be_found(unclear)]
    needed = [int(one.seeds) for one in unclear if not is_missing(one.seeds)]
    if needed:
        most = f"{max(needed)} seeds" if max(needed) < MAX_SEEDS else f"over {MAX_SEEDS} seeds"
        lines.append(
            f"Finding {points_of(unclear[0].margin)}, the margin of this experiment, takes about {most} an arm."
        )
    return lines


def _reach(recorded: Recorded) -> str:
    finished = recorded.finished
    norm = finished.get("network.norm")
    norms = set(norm.dropna()) if norm is not None else set()
    without = "; nor for networks without normalisation, such as the paper's" if norms == {"batch"} else ""
    if finished["arm"].value_counts().max() < 2:
        return (
            "Each arm has a single run: none of this is shown for other seeds, other data, image sizes or "
            f"lengths of training{without}."
        )
    has_interval = any(not is_missing(mean(own).low) for _, own in finished.groupby("arm")[schema.FINAL_TOP1])
    covered = "The intervals cover other seeds of the same training only. " if has_interval else ""
    return f"{covered}Nothing is shown for other data, image sizes or lengths of training{without}."
