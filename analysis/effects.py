"""What the factors of a grid of arms do to an outcome: contrasts, a factorial fit, pairwise differences, verdicts."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from analysis.statistics import ALPHA, NAN, Estimate, holm, welch

AUX = "network.aux"
REDUCTION = "network.reduction"
PAPER = {AUX: "both", REDUCTION: "reduced"}
"""The network of Szegedy et al. 2014: the arm nearest to it is the baseline."""
LABELS = {AUX: "Auxiliary heads", REDUCTION: "1×1 reductions"}
NOT_FACTORS = ("network.classes", "network.resolution")
"""Fields that follow from the data set and the recipe."""

HIGHER, LOWER = "higher", "lower"
NO_CLEAR_DIFFERENCE = "no clear difference"
NOT_CLEAR_AFTER_CORRECTION = "not clear after correction"
NO_INTERVAL = "no interval"


@dataclass(frozen=True)
class Factor:
    """A field of the config that differs between arms, or the first of several fields that differ together."""

    field: str
    levels: tuple[str, ...]

    @property
    def label(self) -> str:
        return LABELS.get(self.field, self.field)


@dataclass(frozen=True)
class Contrast:
    """The mean over the levels `plus` minus the mean over the levels `minus`."""

    text: str
    plus: tuple[str, ...]
    minus: tuple[str, ...]


def factors(runs: pd.DataFrame) -> list[Factor]:
    """The config fields in which the arms of `runs` differ.

    Fields that divide the arms in the same way are one factor, because the runs cannot separate them.
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
    return [Factor(names[0], tuple(str(v) for v in arms[names[0]].unique())) for names in groups.values()]


def baseline(runs: pd.DataFrame) -> str:
    """The arm that others are compared with: the one called baseline, else the one nearest to the paper's network."""
    arms = runs.drop_duplicates("arm").set_index("arm")
    if "baseline" in arms.index:
        return "baseline"
    nearness = pd.Series(0, index=arms.index)
    for field, level in PAPER.items():
        if field in arms:
            nearness += arms[field].eq(level)
    return str(nearness.idxmax())


def contrasts(factor: Factor, base_level: str) -> list[Contrast]:
    """The comparisons that a factor is there for.

    Auxiliary heads are compared with none, reductions with the other kinds of module, and the levels of any other
    factor with `base_level`, the baseline's.
    """
    if factor.field == AUX and "none" in factor.levels:
        heads = tuple(level for level in factor.levels if level != "none")
        single = [Contrast(f"{level} − none", (level,), ("none",)) for level in heads]
        return single if len(heads) == 1 else [Contrast("any − none", heads, ("none",)), *single]
    if factor.field == REDUCTION and "reduced" in factor.levels:
        rest = [level for level in factor.levels if level != "reduced"]
        return [Contrast(f"reduced − {level}", ("reduced",), (level,)) for level in rest]
    rest = [level for level in factor.levels if level != base_level]
    return [Contrast(f"{level} − {base_level}", (level,), (base_level,)) for level in rest]


class FactorialFit:
    """Effects-coded least squares over the arms of a grid, with one residual variance pooled over all arms.

    A full grid is fitted with its two-way interactions, a part of a grid with main effects alone. `identified` is False
    where the arms do not suffice to separate the factors.
    """

    def __init__(self, runs: pd.DataFrame, factors: Sequence[Factor], outcome: str) -> None:
        self.factors = list(factors)
        levels = runs[[factor.field for factor in factors]].astype(str)
        size = math.prod(len(factor.levels) for factor in factors)
        self.interactions = len(factors) > 1 and len(levels.drop_duplicates()) == size
        x = np.array([self._row(tuple(combination)) for combination in levels.to_numpy()])
        y = runs[outcome].to_numpy(dtype=float)
        rank = int(np.linalg.matrix_rank(x))
        self.identified = rank == x.shape[1]
        self._beta, *_ = np.linalg.lstsq(x, y, rcond=None)
        self._inverse = np.linalg.pinv(x.T @ x)
        self._n = len(y)
        self._df = self._n - rank
        residual = y - x @ self._beta
        self._variance = float(residual @ residual) / self._df if self._df else NAN

    def main(self, factor: Factor, contrast: Contrast) -> Estimate:
        """The difference between levels, averaged with equal weights over the levels of all other factors."""
        return self._estimate(self._marginal({factor: contrast.plus}) - self._marginal({factor: contrast.minus}))

    def interaction(self, a: Factor, of_a: Contrast, b: Factor, of_b: Contrast) -> Estimate:
        """The difference in `a` at the plus side of `b`, minus the same difference at the minus side of `b`."""
        return self._estimate(
            self._marginal({a: of_a.plus, b: of_b.plus})
            - self._marginal({a: of_a.minus, b: of_b.plus})
            - self._marginal({a: of_a.plus, b: of_b.minus})
            + self._marginal({a: of_a.minus, b: of_b.minus})
        )

    def _row(self, levels: tuple[str, ...]) -> npt.NDArray[np.float64]:
        """The row of the design matrix for a combination of levels, one of each factor."""
        codes = []
        for factor, level in zip(self.factors, levels, strict=True):
            last = len(factor.levels) - 1
            index = factor.levels.index(level)
            codes.append(-np.ones(last) if index == last else np.eye(last)[index])
        products = [np.outer(a, b).ravel() for a, b in itertools.combinations(codes, 2)] if self.interactions else []
        return np.concatenate([np.ones(1), *codes, *products])

    def _marginal(self, fixed: dict[Factor, tuple[str, ...]]) -> npt.NDArray[np.float64]:
        """The mean row over all combinations of levels in which the factors of `fixed` have one of the levels there."""
        combinations = itertools.product(*(fixed.get(factor, factor.levels) for factor in self.factors))
        return np.asarray(np.mean([self._row(levels) for levels in combinations], axis=0))

    def _estimate(self, weights: npt.NDArray[np.float64]) -> Estimate:
        se = math.sqrt(max(self._variance * float(weights @ self._inverse @ weights), 0)) if self._df else NAN
        return Estimate(float(weights @ self._beta), self._n, se=se, df=self._df or NAN)


EFFECT_COLUMNS = [
    "outcome", "kind", "effect", "contrast", "difference", "low", "high", "p", "p_holm", "df", "n", "detectable",
    "verdict",
]  # fmt: skip


def effects(runs: pd.DataFrame, outcome: str) -> pd.DataFrame:
    """All effects on an outcome, a row each, with the columns `EFFECT_COLUMNS`.

    Main effects come first, then interactions, then each arm minus the baseline (`kind` main, interaction, pairwise).
    Holm's correction is made over main effects and interactions together, and separately over the pairs.

    Args:
        runs: Finished runs, as `analysis.frames.Recorded.finished`.
        outcome: A column of `runs`; differences are in its unit.
    """
    base = baseline(runs)
    base_row = runs[runs["arm"] == base].iloc[0]
    found = factors(runs)
    rows: list[tuple[str, str, str, Estimate]] = []
    fit = FactorialFit(runs, found, outcome) if found else None
    if fit and fit.identified:
        asked = {factor: contrasts(factor, str(base_row[factor.field])) for factor in found}
        for factor in found:
            rows += [("main", factor.label, contrast.text, fit.main(factor, contrast)) for contrast in asked[factor]]
        if fit.interactions:
            for a, b in itertools.combinations(found, 2):
                name = f"{a.label} × {b.label}"
                for of_a, of_b in itertools.product(_primary(a, asked[a]), _primary(b, asked[b])):
                    text = f"({of_a.text}) × ({of_b.text})"
                    rows.append(("interaction", name, text, fit.interaction(a, of_a, b, of_b)))
    values = {str(arm): group.to_numpy(dtype=float) for arm, group in runs.groupby("arm", sort=False)[outcome]}
    rows += [
        ("pairwise", arm, f"{arm} − {base}", welch(own, values[base])) for arm, own in values.items() if arm != base
    ]
    frame = pd.DataFrame(
        [
            (outcome, kind, effect, text, e.value, e.low, e.high, e.p, NAN, e.df, e.n, e.detectable, "")
            for kind, effect, text, e in rows
        ],
        columns=EFFECT_COLUMNS,
    )
    for family in (frame["kind"] != "pairwise", frame["kind"] == "pairwise"):
        frame.loc[family, "p_holm"] = holm(list(frame.loc[family, "p"]))
    frame["verdict"] = [verdict(*row) for row in frame[["difference", "p", "p_holm"]].to_numpy(dtype=float)]
    return frame


def verdict(difference: float, p: float, p_holm: float) -> str:
    """A difference in words, from its p value before and after Holm's correction."""
    if math.isnan(p):
        return NO_INTERVAL
    if p_holm < ALPHA:
        return HIGHER if difference > 0 else LOWER
    return NOT_CLEAR_AFTER_CORRECTION if p < ALPHA else NO_CLEAR_DIFFERENCE


def _primary(factor: Factor, asked: list[Contrast]) -> list[Contrast]:
    """The contrasts of a factor that interactions are made of: of auxiliary heads only the first."""
    return asked[:1] if factor.field == AUX else asked
