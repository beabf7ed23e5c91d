"""Estimates the effects of an experiment's factors on an outcome such as top-1.

Factors are the config fields in which the arms differ. Their effects are contrasts of a factorial fit over all arms; in
addition, each arm is compared with the baseline. Each effect has a verdict in words.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from analysis.statistics import ALPHA, NAN, NEGLIGIBLE, Estimate, holm, welch

AUX = "network.aux"
REDUCTION = "network.reduction"
PAPER = {AUX: "both", REDUCTION: "reduced"}
"""Values of two fields in the network of Szegedy et al. 2014, by which `baseline` finds the arm nearest to it."""
LABELS = {AUX: "Auxiliary heads", REDUCTION: "1×1 reductions"}
NOT_FACTORS = ("network.classes", "network.resolution")
"""Fields that are never factors, because they follow from the data set and the recipe."""

HIGHER, LOWER = "higher", "lower"
NO_CLEAR_DIFFERENCE = "no clear difference"
NOT_CLEAR_AFTER_CORRECTION = "not clear after correction"
NO_INTERVAL = "no interval"


@dataclass(frozen=True)
class Factor:
    """A config field whose value differs between arms.

    If several fields divide the arms in the same way, the factor has the name and the levels of the first.
    """

    field: str
    """Name of the field, for example `network.aux`."""
    levels: tuple[str, ...]
    """The values of the field as text, in the order in which arms have them."""

    @property
    def label(self) -> str:
        """The name of the factor in tables and figures."""
        return LABELS.get(self.field, self.field)


@dataclass(frozen=True)
class Contrast:
    """A comparison of levels of a factor: the mean over the levels `plus` minus the mean over the levels `minus`."""

    text: str
    """The comparison in tables, for example "aux1 − none"."""
    plus: tuple[str, ...]
    minus: tuple[str, ...]


def factors(runs: pd.DataFrame) -> list[Factor]:
    """Find the factors of an experiment: the config fields in which its arms differ.

    Fields that divide the arms in the same way form one factor, because the runs cannot separate their effects. A field
    is no factor if it varies within an arm or was not recorded for every arm.

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
    return [Factor(names[0], tuple(str(v) for v in arms[names[0]].unique())) for names in groups.values()]


def baseline(runs: pd.DataFrame) -> str:
    """Choose the arm with which the other arms are compared.

    It is the arm called "baseline". If there is none, it is the arm that agrees with the paper's network in most fields
    of `PAPER`, and among equals the first in `runs`.

    Args:
        runs: At least one run, in the format of `analysis.frames.Recorded.runs`.

    Returns:
        The name of the arm.
    """
    arms = runs.drop_duplicates("arm").set_index("arm")
    if "baseline" in arms.index:
        return "baseline"
    nearness = pd.Series(0, index=arms.index)
    for field, level in PAPER.items():
        if field in arms:
            nearness += arms[field].eq(level)
    return str(nearness.idxmax())


def contrasts(factor: Factor, base_level: str) -> list[Contrast]:
    """Choose which levels of a factor are compared with each other.

    For auxiliary classifiers, each level is compared with "none". If there are several such levels, the first contrast
    compares their mean with "none". For reductions, "reduced" is compared with each other level. For any other factor,
    and for these two if they lack the level "none" or "reduced", each level is compared with `base_level`.

    Args:
        factor: The factor.
        base_level: The level of the baseline arm.
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
    """A least-squares fit of an outcome to the factors of a grid of arms, with effects coding.

    If the runs cover all combinations of levels, the model has main effects and two-way interactions, otherwise main
    effects alone. One residual variance is estimated for all arms together. If the runs have no spread around the fit,
    estimates have no interval. The fit is computed when the object is created.

    Args:
        runs: Runs in the format of `analysis.frames.Recorded.runs`.
        factors: The factors of these runs, at least one.
        outcome: Name of a column of `runs` without missing values.

    Attributes:
        factors: The factors, as a list.
        interactions: Whether the model has interactions.
        identified: Whether the arms suffice to separate the effects. If it is False, estimates are meaningless.
    """

    def __init__(self, runs: pd.DataFrame, factors: Sequence[Factor], outcome: str) -> None:
        self.factors = list(factors)
        levels = runs[[factor.field for factor in factors]].astype(str)
        size = math.prod(len(factor.levels) for factor in factors)
        self.interactions = len(factors) > 1 and len(levels.drop_duplicates()) == size
        x = np.array([self._row(tuple(combination)) for combination in levels.to_numpy()])
        y = runs[outcome].to_numpy(dtype=float)
        self._scale = float(np.abs(y).max()) or 1.0  # scaled outcomes have squares within the range of floats
        y = y / self._scale
        rank = int(np.linalg.matrix_rank(x))
        self.identified = rank == x.shape[1]
        self._beta, *_ = np.linalg.lstsq(x, y, rcond=None)
        self._inverse = np.linalg.pinv(x.T @ x)
        self._n = len(y)
        self._df = self._n - rank
        residual = y - x @ self._beta
        if np.abs(residual).max() <= NEGLIGIBLE:
            residual = np.zeros_like(residual)
        self._variance = float(residual @ residual) / self._df if self._df else NAN

    def main(self, factor: Factor, contrast: Contrast) -> Estimate:
        """Estimate the contrast of a factor, averaged with equal weights over the levels of all other factors.

        The estimate is in the unit of the outcome. Its `n` is the number of all runs of the fit.
        """
        return self._estimate(self._marginal({factor: contrast.plus}) - self._marginal({factor: contrast.minus}))

    def interaction(self, a: Factor, of_a: Contrast, b: Factor, of_b: Contrast) -> Estimate:
        """Estimate how much the contrast of one factor depends on another factor.

        The estimate is the contrast `of_a` at the plus levels of `of_b`, minus `of_a` at the minus levels of `of_b`. It
        is averaged with equal weights over the levels of all other factors, in the unit of the outcome. It is
        meaningful only if `interactions` is True.

        Args:
            a: A factor.
            of_a: A contrast of `a`.
            b: Another factor.
            of_b: A contrast of `b`.
        """
        return self._estimate(
            self._marginal({a: of_a.plus, b: of_b.plus})
            - self._marginal({a: of_a.minus, b: of_b.plus})
            - self._marginal({a: of_a.plus, b: of_b.minus})
            + self._marginal({a: of_a.minus, b: of_b.minus})
        )

    def _row(self, levels: tuple[str, ...]) -> npt.NDArray[np.float64]:
        """Compute the row of the design matrix for a combination of levels, with one level of each factor."""
        codes = []
        for factor, level in zip(self.factors, levels, strict=True):
            last = len(factor.levels) - 1
            index = factor.levels.index(level)
            codes.append(-np.ones(last) if index == last else np.eye(last)[index])
        products = [np.outer(a, b).ravel() for a, b in itertools.combinations(codes, 2)] if self.interactions else []
        return np.concatenate([np.ones(1), *codes, *products])

    def _marginal(self, fixed: dict[Factor, tuple[str, ...]]) -> npt.NDArray[np.float64]:
        """Compute the mean row of the design matrix over all combinations of levels that `fixed` allows.

        A factor that is not in `fixed` may have any of its levels.
        """
        combinations = itertools.product(*(fixed.get(factor, factor.levels) for factor in self.factors))
        return np.asarray(np.mean([self._row(levels) for levels in combinations], axis=0))

    def _estimate(self, weights: npt.NDArray[np.float64]) -> Estimate:
        se = math.sqrt(max(self._variance * float(weights @ self._inverse @ weights), 0)) if self._df else NAN
        return Estimate(self._scale * float(weights @ self._beta), self._n, se=self._scale * se, df=self._df or NAN)


EFFECT_COLUMNS = [
    "outcome", "kind", "effect", "contrast", "difference", "low", "high", "p", "p_holm", "df", "n", "detectable",
    "verdict",
]  # fmt: skip
"""Columns of the frame that `effects` returns, which describes them."""


def effects(runs: pd.DataFrame, outcome: str) -> pd.DataFrame:
    """Estimate all effects on an outcome: main effects, interactions, and each arm minus the baseline.

    Main effects need a fit that separates the factors, and interactions need all combinations of levels. Effects that
    cannot be estimated are left out. Interactions of auxiliary classifiers use their first contrast only.

    Args:
        runs: At least one finished run, in the format of `analysis.frames.Recorded.finished`.
        outcome: Name of a column of `runs` without missing values.

    Returns:
        A frame with one row for each effect and the columns `EFFECT_COLUMNS`:

        - `kind`: "main", "interaction" or "pairwise", in this order.
        - `effect`: the factor, the two factors or the arm. `contrast`: the compared levels or arms.
        - `difference`, `low`, `high`: the estimate and its 95 % interval, in the unit of the outcome.
        - `p`, `p_holm`: p value without and with Holm's correction. The correction is made over main effects and
          interactions together, and separately over the pairs.
        - `df`, `n`: degrees of freedom and number of runs behind the estimate.
        - `detectable`: the smallest effect that would be found with a power of 80 %.
        - `verdict`: the result of `verdict`.
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
    """Express a difference in words.

    Args:
        difference: The estimated difference.
        p: Its p value without correction, NaN if it has none.
        p_holm: Its p value after Holm's correction.

    Returns:
        `HIGHER` or `LOWER` if `p_holm` is below `ALPHA`, `NOT_CLEAR_AFTER_CORRECTION` if only `p` is,
        `NO_CLEAR_DIFFERENCE` if neither is, and `NO_INTERVAL` if `p` is NaN: there are too few runs, or they have no
        spread.
    """
    if math.isnan(p):
        return NO_INTERVAL
    if p_holm < ALPHA:
        return HIGHER if difference > 0 else LOWER
    return NOT_CLEAR_AFTER_CORRECTION if p < ALPHA else NO_CLEAR_DIFFERENCE


def _primary(factor: Factor, asked: list[Contrast]) -> list[Contrast]:
    """Select the contrasts of a factor for interactions: the first for auxiliary classifiers, all for other factors."""
    return asked[:1] if factor.field == AUX else asked
