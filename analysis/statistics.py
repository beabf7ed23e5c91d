"""Intervals, effects and what a handful of seeds can tell: pure functions on numbers and frames.

No bootstrap: over three to ten seeds its intervals cover far less than they say, t intervals do not.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import special

from reproduce import schema

LEVEL = 0.95
ALPHA = 1 - LEVEL
POWER = 0.8
NAN = float("nan")

AUX = "network.aux"
REDUCTION = "network.reduction"
PAPER = {AUX: "both", REDUCTION: "reduced"}  # the network of arXiv:1409.4842, against which arms are compared
LABELS = {AUX: "Auxiliary heads", REDUCTION: "1×1 reductions"}
NOT_FACTORS = ("network.classes", "network.resolution")  # they follow from the data set and the recipe


@dataclass(frozen=True)
class Estimate:
    """A mean or a difference. Without at least two values a side there is no interval: `low`, `high`, `p` are NaN."""

    value: float
    se: float = NAN
    df: float = NAN

    @property
    def _spread(self) -> bool:
        return self.se > 0 and self.df > 0

    @property
    def half(self) -> float:
        return _critical(self.df) * self.se if self._spread else NAN

    @property
    def low(self) -> float:
        return self.value - self.half

    @property
    def high(self) -> float:
        return self.value + self.half

    @property
    def p(self) -> float:
        """Two-sided p of value 0."""
        return 2 * float(special.stdtr(self.df, -abs(self.value) / self.se)) if self._spread else NAN

    @property
    def detectable(self) -> float:
        """The difference that a t test of this spread and size would find with 80 % power at the 5 % level."""
        return detectable(self.se, self.df) if self._spread else NAN


@dataclass(frozen=True)
class Factor:
    """A field of the config that differs between arms (or several that differ together)."""

    field: str
    levels: tuple[str, ...]

    @property
    def label(self) -> str:
        return LABELS.get(self.field, self.field)


@dataclass(frozen=True)
class Contrast:
    """Mean over the levels `plus` against mean over the levels `minus`."""

    text: str
    plus: tuple[str, ...]
    minus: tuple[str, ...]


def mean(values: npt.ArrayLike) -> Estimate:
    """Mean with Student's t interval."""
    array = np.asarray(values, dtype=float)
    n = len(array)
    if n < 2:
        return Estimate(float(array.mean()) if n else NAN)
    return Estimate(float(array.mean()), se=float(array.std(ddof=1)) / math.sqrt(n), df=n - 1)


def welch(a: npt.ArrayLike, b: npt.ArrayLike) -> Estimate:
    """Mean of `a` less mean of `b`, variances not assumed equal."""
    first, second = mean(a), mean(b)
    value = first.value - second.value
    va, vb = first.se**2, second.se**2
    if not va + vb > 0:
        return Estimate(value)
    return Estimate(value, se=math.sqrt(va + vb), df=(va + vb) ** 2 / (va**2 / first.df + vb**2 / second.df))


def holm(p: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment; NaN (no test) stays NaN and does not count in the family."""
    array = np.asarray(p, dtype=float)
    adjusted = np.full(len(array), NAN)
    tested = np.flatnonzero(~np.isnan(array))
    order = tested[np.argsort(array[tested], kind="stable")]
    factors = len(order) - np.arange(len(order))
    adjusted[order] = np.minimum(np.maximum.accumulate(array[order] * factors), 1)
    return [float(value) for value in adjusted]


def detectable(se: float, df: float, *, power: float = POWER) -> float:
    """Minimum detectable effect of a two-sided t test: the noncentrality that reaches `power`, times `se`.

    The tail on the far side is left out; at useful powers it holds nothing.
    """
    return float(special.nctdtrinc(df, 1 - power, _critical(df))) * se


def _critical(df: float) -> float:
    return float(special.stdtrit(df, 1 - ALPHA / 2))


def factors(runs: pd.DataFrame) -> list[Factor]:
    """What the arms of `runs` differ in; fields that divide the arms alike are one factor, as runs cannot part them."""
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
    """The arm that others are compared with: one called baseline, else the one nearest to the paper's network."""
    arms = runs.drop_duplicates("arm").set_index("arm")
    if "baseline" in arms.index:
        return "baseline"
    nearness = pd.Series(0, index=arms.index)
    for field, level in PAPER.items():
        if field in arms:
            nearness += arms[field].eq(level)
    return str(nearness.idxmax())


def contrasts(factor: Factor, base_level: str) -> list[Contrast]:
    """The questions a factor answers: heads against none, reduced against the rest, anything against the baseline."""
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
    """Effects-coded least squares over the arms of a grid, residual variance pooled.

    A full grid gets its two-way interactions; part of a grid gets main effects alone. `identified` is False where the
    arms cannot tell the factors apart.
    """

    def __init__(self, runs: pd.DataFrame, of: Sequence[Factor], outcome: str) -> None:
        self.factors = list(of)
        cells = runs[[f.field for f in of]].astype(str)
        size = math.prod(len(f.levels) for f in of)
        self.interactions = len(of) > 1 and len(cells.drop_duplicates()) == size
        x = np.array([self._row(tuple(cell)) for cell in cells.to_numpy()])
        y = runs[outcome].to_numpy(dtype=float)
        rank = int(np.linalg.matrix_rank(x))
        self.identified = rank == x.shape[1]
        self._beta, *_ = np.linalg.lstsq(x, y, rcond=None)
        self._inverse = np.linalg.pinv(x.T @ x)
        self._df = len(y) - rank
        residual = y - x @ self._beta
        self._variance = float(residual @ residual) / self._df if self._df else NAN

    def main(self, factor: Factor, contrast: Contrast) -> Estimate:
        """Difference between levels, averaged evenly over the levels of all other factors."""
        return self._estimate(self._marginal({factor: contrast.plus}) - self._marginal({factor: contrast.minus}))

    def interaction(self, a: Factor, of_a: Contrast, b: Factor, of_b: Contrast) -> Estimate:
        """How much the difference in `a` itself differs between the sides of `b`."""
        return self._estimate(
            self._marginal({a: of_a.plus, b: of_b.plus})
            - self._marginal({a: of_a.minus, b: of_b.plus})
            - self._marginal({a: of_a.plus, b: of_b.minus})
            + self._marginal({a: of_a.minus, b: of_b.minus})
        )

    def _row(self, cell: tuple[str, ...]) -> npt.NDArray[np.float64]:
        codes = []
        for factor, level in zip(self.factors, cell, strict=True):
            last = len(factor.levels) - 1
            index = factor.levels.index(level)
            codes.append(-np.ones(last) if index == last else np.eye(last)[index])
        products = [np.outer(a, b).ravel() for a, b in itertools.combinations(codes, 2)] if self.interactions else []
        return np.concatenate([np.ones(1), *codes, *products])

    def _marginal(self, fixed: dict[Factor, tuple[str, ...]]) -> npt.NDArray[np.float64]:
        cells = itertools.product(*(fixed.get(factor, factor.levels) for factor in self.factors))
        return np.asarray(np.mean([self._row(cell) for cell in cells], axis=0))

    def _estimate(self, weights: npt.NDArray[np.float64]) -> Estimate:
        se = math.sqrt(max(self._variance * float(weights @ self._inverse @ weights), 0)) if self._df else NAN
        return Estimate(float(weights @ self._beta), se=se, df=self._df or NAN)


EFFECT_COLUMNS = [
    "outcome", "kind", "effect", "contrast", "difference", "low", "high", "p", "p_holm", "df", "n", "detectable",
    "verdict",
]  # fmt: skip


def effects(runs: pd.DataFrame, outcome: str) -> pd.DataFrame:
    """All effects on `outcome`, in its unit: `kind` main, interaction, then pairwise (arm less baseline).

    Holm's correction goes over main effects and interactions together, and over the pairs together.
    """
    base = baseline(runs)
    base_row = runs[runs["arm"] == base].iloc[0]
    found = factors(runs)
    rows: list[tuple[str, str, str, Estimate, int]] = []
    n = len(runs)
    fit = FactorialFit(runs, found, outcome) if found else None
    if fit and fit.identified:
        questions = {factor: contrasts(factor, str(base_row[factor.field])) for factor in found}
        for factor, asked in questions.items():
            rows += [("main", factor.label, c.text, fit.main(factor, c), n) for c in asked]
        if fit.interactions:
            for a, b in itertools.combinations(found, 2):
                name = f"{a.label} × {b.label}"
                for of_a, of_b in itertools.product(_primary(a, questions[a]), _primary(b, questions[b])):
                    text = f"({of_a.text}) × ({of_b.text})"
                    rows.append(("interaction", name, text, fit.interaction(a, of_a, b, of_b), n))
    values = {str(arm): group.to_numpy(dtype=float) for arm, group in runs.groupby("arm", sort=False)[outcome]}
    for arm, own in values.items():
        if arm != base:
            rows.append(("pairwise", arm, f"{arm} − {base}", welch(own, values[base]), len(own) + len(values[base])))
    frame = pd.DataFrame(
        [
            (outcome, kind, effect, text, e.value, e.low, e.high, e.p, NAN, e.df, n, e.detectable, "")
            for kind, effect, text, e, n in rows
        ],
        columns=EFFECT_COLUMNS,
    )
    for family in (frame["kind"] != "pairwise", frame["kind"] == "pairwise"):
        frame.loc[family, "p_holm"] = holm(list(frame.loc[family, "p"]))
    frame["verdict"] = [verdict(*row) for row in frame[["difference", "p", "p_holm"]].to_numpy(dtype=float)]
    return frame


def verdict(difference: float, p: float, p_holm: float) -> str:
    """A difference in words; what is inside the noise is called that."""
    if math.isnan(p):
        return "no interval"
    if p_holm < ALPHA:
        return "higher" if difference > 0 else "lower"
    return "not after correction" if p < ALPHA else "within the noise"


# What is summarised over an arm's runs, with the name of its columns.
SUMMARISED = {
    "top1": schema.FINAL_TOP1,
    "top5": schema.FINAL_TOP5,
    "val_loss": schema.FINAL_VAL_LOSS,
    "train_top1": schema.FINAL_TRAIN_TOP1,
    "images_per_s": schema.FINAL_IMAGES_PER_S,
    "duration_s": schema.FINAL_DURATION_S,
    "gpu_busy_percent": schema.GPU_BUSY_PERCENT,
    "shared_gpu_busy_percent": schema.SHARED_GPU_BUSY_PERCENT,
    "gpu_energy_j": schema.GPU_ENERGY_J,
    "cpu_percent": schema.HOST_CPU_PERCENT,
}
CONSTANT = {
    "parameters": schema.COST_PARAMETERS,
    "parameters_inference": schema.COST_PARAMETERS_INFERENCE,
    "macs": schema.COST_MACS,
    "macs_training": schema.COST_MACS_TRAINING,
}


def arms(runs: pd.DataFrame, order: Sequence[str]) -> pd.DataFrame:
    """A row an arm: n, then mean, low, high and sd of what varies over seeds, and what the network costs."""
    rows = []
    for arm in order:
        own = runs[runs["arm"] == arm]
        row: dict[str, object] = {"arm": arm, "n": len(own)}
        for name, metric in SUMMARISED.items():
            values = own[metric].dropna().to_numpy(dtype=float) if metric in own else np.empty(0)
            e = mean(values)
            sd = float(values.std(ddof=1)) if len(values) > 1 else NAN
            row |= {name: e.value, f"{name}_low": e.low, f"{name}_high": e.high, f"{name}_sd": sd}
        for name, metric in CONSTANT.items():
            row[name] = own[metric].iloc[0] if metric in own and len(own) else NAN
        rows.append(row)
    return pd.DataFrame(rows)


def concurrent_runs(runs: pd.DataFrame) -> int:
    """The most runs that were under way at once on one host."""
    most = 0
    hosts = runs[schema.TAG_HOST].fillna("") if schema.TAG_HOST in runs else pd.Series("", index=runs.index)
    for _, own in runs.groupby(hosts):
        for start in own["started"]:
            most = max(most, int(((own["started"] <= start) & (own["ended"].fillna(math.inf) > start)).sum()))
    return most


def _primary(factor: Factor, asked: list[Contrast]) -> list[Contrast]:
    return asked[:1] if factor.field == AUX else asked
