"""Finds what an experiment varies: the factors in which its arms differ, their levels, and the arm to compare with."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from analysis.tables import MINUS

AUX = "network.aux"
REDUCTION = "network.reduction"
PAPER = {AUX: "both", REDUCTION: "reduced"}
"""Values of two fields in the network of Szegedy et al. 2014, by which `baseline` finds the arm nearest to it."""
LABELS = {AUX: "Auxiliary classifiers", REDUCTION: "1x1 reductions"}
NOT_FACTORS = ("network.classes", "network.resolution")
"""Fields that are never factors, because they follow from the data set and the recipe."""
TOGETHER = " / "
"""What separates the fields of a factor that arms change together, and their values."""


@dataclass(frozen=True)
class Factor:
    """Config fields whose values differ between arms.

    Fields that divide the arms in the same way are one factor, because the runs cannot tell their effects apart.
    """

    fields: tuple[str, ...]
    """Names of the fields, for example `network.aux`."""
    levels: tuple[str, ...]
    """The values of the fields as text, in the order in which arms have them."""

    @property
    def label(self) -> str:
        """The name of the factor in tables and figures. It names all fields."""
        return TOGETHER.join(LABELS.get(field, field) for field in self.fields)

    @property
    def is_confounded(self) -> bool:
        """Whether several fields change together."""
        return len(self.fields) > 1

    def level(self, arm: Mapping[Any, object]) -> str:
        """Return the level of an arm, or of a run of it, that is given by its config fields."""
        return TOGETHER.join(str(arm[field]) for field in self.fields)


@dataclass(frozen=True)
class Contrast:
    """A comparison of levels of a factor: the mean over the levels `plus` minus the mean over the levels `minus`."""

    text: str
    """The comparison in tables, for example "aux1 − none"."""
    plus: tuple[str, ...]
    minus: tuple[str, ...]

    def weight(self, level: str) -> float:
        """Return the weight of a level in the contrast; 0 if it takes no part."""
        return (level in self.plus) / len(self.plus) - (level in self.minus) / len(self.minus)


def factors(runs: pd.DataFrame) -> list[Factor]:
    """Find the factors of an experiment: the config fields in which its arms differ.

    A field is no factor if it varies within an arm or was not recorded for every arm.

    Args:
        runs: Runs in the format of `analysis.frames.Recorded.runs`.

    Returns:
        The factors, those of auxiliary classifiers and reductions first, then by the name of the field.
    """
    fields = [c for c in runs.columns if c.startswith(("network.", "recipe.", "data.")) or c == "workers"]
    fields = [field for field in fields if field not in NOT_FACTORS]
    per_arm = runs.groupby("arm", sort=False)[fields]
    constant = per_arm.nunique(dropna=False).le(1).all() & per_arm.first().notna().all()
    arms = per_arm.first()
    groups: dict[tuple[int, ...], list[str]] = {}
    for field in sorted(fields, key=lambda name: (name not in LABELS, name)):
        codes, levels = pd.factorize(arms[field])
        if constant[field] and len(levels) > 1:
            groups.setdefault(tuple(int(code) for code in codes), []).append(field)
    found = []
    for names in groups.values():
        joined = arms[names].astype(str).agg(TOGETHER.join, axis=1)
        found.append(Factor(tuple(names), tuple(joined.unique())))
    return found


def cells(runs: pd.DataFrame, found: Sequence[Factor]) -> dict[str, tuple[str, ...]]:
    """Return the levels of each arm, one for each factor, if the arms are a full factorial.

    They are if every combination of levels is exactly one arm. A single factor is a full factorial.

    Args:
        runs: Runs in the format of `analysis.frames.Recorded.runs`.
        found: The factors of these runs.

    Returns:
        The levels by arm. The mapping is empty if the arms are no full factorial.
    """
    arms = runs.drop_duplicates("arm")
    levels = {str(arm["arm"]): tuple(factor.level(arm) for factor in found) for arm in arms.to_dict("records")}
    size = math.prod(len(factor.levels) for factor in found)
    return levels if found and len(levels) == len(set(levels.values())) == size else {}


def baseline(runs: pd.DataFrame, named: str | None = None) -> str:
    """Choose the arm with which the other arms are compared.

    It is the arm that the experiment names, or else the arm called "baseline". If there are no runs of either, it is
    the arm that agrees with the paper's network in most fields of `PAPER`, and among equals the first in `runs`.

    Args:
        runs: At least one run, in the format of `analysis.frames.Recorded.runs`.
        named: The arm that the experiment names.

    Returns:
        The name of the arm.
    """
    arms = runs.drop_duplicates("arm").set_index("arm")
    for arm in (named, "baseline"):
        if arm in arms.index:
            return str(arm)
    nearness = pd.Series(0, index=arms.index)
    for field, level in PAPER.items():
        if field in arms:
            nearness += arms[field].eq(level)
    return str(nearness.idxmax())


def contrasts(factor: Factor, base_level: str) -> list[Contrast]:
    """Choose which levels of a factor are compared with each other.

    For auxiliary classifiers, each level is compared with "none". If there are several such levels, the first contrast
    compares their mean with "none". For reductions, "reduced" is compared with each other level. For any other factor,
    and for these two if they lack the level "none" or "reduced" or change together with other fields, each level is
    compared with `base_level`.

    Args:
        factor: The factor.
        base_level: The level of the baseline arm.
    """
    if factor.fields == (AUX,) and "none" in factor.levels:
        heads = tuple(level for level in factor.levels if level != "none")
        single = [Contrast(f"{level} {MINUS} none", (level,), ("none",)) for level in heads]
        return single if len(heads) == 1 else [Contrast(f"any {MINUS} none", heads, ("none",)), *single]
    if factor.fields == (REDUCTION,) and "reduced" in factor.levels:
        rest = [level for level in factor.levels if level != "reduced"]
        return [Contrast(f"reduced {MINUS} {level}", ("reduced",), (level,)) for level in rest]
    rest = [level for level in factor.levels if level != base_level]
    return [Contrast(f"{level} {MINUS} {base_level}", (level,), (base_level,)) for level in rest]
