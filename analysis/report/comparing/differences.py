"""Finds in what two sides differ, in recorded settings and environment, and which runs belong to both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from analysis.factors import NOT_FACTORS
from analysis.frames import Recorded
from analysis.report.environment import PROCESSOR, commit_of, gpus_of, values_of
from analysis.tables import DASH, Cell, Table, is_missing
from reproduce import schema

SETTINGS = ("data.", "network.", "recipe.", "workers", "deterministic", "probes")
"""Beginnings of the names of settings."""
ALL_ARMS = "all arms"
FACTS = {
    schema.TAG_HOST: "Machine",
    PROCESSOR: "Processor",
    schema.TAG_DATA_HASH: "Data hash",
}
"""Facts of the environment and their names in tables. Packages and facts of the computation follow them."""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Something in which two sides differ."""

    what: str
    """The name of a setting or of a fact, for example "recipe.epochs"."""
    arm: str
    """The arm that has the setting, `ALL_ARMS`, or empty for a fact of the environment."""
    a: str
    """The value on side A, with numbers of runs if it varies there; a dash if it is not recorded."""
    b: str


@dataclass(frozen=True, kw_only=True)
class Repeated:
    """Runs with the same key on both sides."""

    trained_once: int
    """How many are one training that both sides hold."""
    renamed: int
    """How many of those have another arm on side B than on side A."""
    differences: Sequence[float]
    """Top-1 on side B minus that on side A, of those that were trained on each side."""


def shared_arms(a: Recorded, b: Recorded) -> list[str]:
    """Return the arms that have a finished run on both sides, in the order of A."""
    return [arm for arm in a.finished["arm"].unique() if arm in set(b.finished["arm"])]


def setting_differences(a: Recorded, b: Recorded) -> list[Difference]:
    """List the settings in which the shared arms of two sides differ, and their seeds.

    Without a shared arm, these are the settings whose values over all arms differ. A setting that one side has not
    recorded, since it came later, is no difference.
    """
    arms = shared_arms(a, b)
    fields = [name for name in map(str, a.runs.columns) if name.startswith(SETTINGS) and name not in NOT_FACTORS]
    found = []
    for field in sorted(set(fields) & set(map(str, b.runs.columns))):
        pairs = {arm: _values(a.finished, b.finished, arm, field) for arm in arms}
        differing = {arm: pair for arm, pair in pairs.items() if DASH not in pair and pair[0] != pair[1]}
        if not arms:
            pair = (_all_values(a.finished, field), _all_values(b.finished, field))
            differing = {ALL_ARMS: pair} if DASH not in pair and pair[0] != pair[1] else {}
        elif len(differing) == len(arms) and len(set(differing.values())) == 1:
            differing = {ALL_ARMS: next(iter(differing.values()))}
        found += [Difference(what=field, arm=arm, a=one, b=other) for arm, (one, other) in differing.items()]
    seeds = [", ".join(map(str, sorted(side.finished["seed"].unique()))) for side in (a, b)]
    if seeds[0] != seeds[1]:
        found.append(Difference(what="seeds", arm=ALL_ARMS, a=seeds[0], b=seeds[1]))
    return found


def repeated_runs(a: Recorded, b: Recorded) -> Repeated:
    """Find the finished runs that have the same key on both sides."""
    both = a.finished.merge(b.finished, on="key", suffixes=("_a", "_b"))
    once = both["started_a"].eq(both["started_b"]) if len(both) else pd.Series(dtype=bool)
    twice = both[~once]
    found = twice[f"{schema.FINAL_TOP1}_b"] - twice[f"{schema.FINAL_TOP1}_a"]
    renamed = both["arm_a"].ne(both["arm_b"]) & once if len(both) else once
    return Repeated(
        trained_once=int(once.sum()), renamed=int(renamed.sum()), differences=[float(value) for value in found]
    )


def environment_differences(a: Recorded, b: Recorded) -> list[Difference]:
    """List the facts in which the environments of two sides differ, or which vary within a side."""
    columns = sorted({name for side in (a, b) for name in map(str, side.runs.columns)})
    named = dict(FACTS)
    for prefix in (schema.TAG_ENVIRONMENT, schema.TAG_COMPUTATION):
        named |= {name: name.removeprefix(prefix) for name in columns if name.startswith(prefix) and name not in named}
    texts = {
        "Commit": (commit_of(a.finished), commit_of(b.finished)),
        "GPUs": (gpus_of(a.finished), gpus_of(b.finished)),
    }
    texts |= {label: (values_of(a.finished, name), values_of(b.finished, name)) for name, label in named.items()}
    return [
        Difference(what=label, arm="", a=one, b=other)
        for label, (one, other) in texts.items()
        if one != other and not {one, other} <= {DASH, "-"}
    ]


def unrecorded_settings(a: Recorded, b: Recorded) -> list[str]:
    """Return the names of the settings that one side alone has recorded."""
    return sorted(str(name) for name in set(a.runs.columns) ^ set(b.runs.columns) if str(name).startswith(SETTINGS))


def differences_table(found: Sequence[Difference], caption: str) -> Table:
    """Build a table of differences, with a row for each."""
    with_arms = any(one.arm for one in found)
    columns = ["What", *(["Arm"] if with_arms else []), "A", "B"]
    rows = [
        [Cell(text, sort=text) for text in (one.what, *([one.arm] if with_arms else []), one.a, one.b)] for one in found
    ]
    return Table(caption, columns, rows, frozenset(range(len(columns))))


def _values(a: pd.DataFrame, b: pd.DataFrame, arm: str, field: str) -> tuple[str, str]:
    one, other = (values_of(runs[runs["arm"] == arm], field) for runs in (a, b))
    return (DASH if is_missing(one) else one, DASH if is_missing(other) else other)


def _all_values(runs: pd.DataFrame, field: str) -> str:
    """Return the values of a setting over all runs, such as "both/none"; a dash for none."""
    return "/".join(sorted(map(str, runs[field].dropna().unique()))) or DASH
