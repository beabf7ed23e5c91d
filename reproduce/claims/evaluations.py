"""Measurements on evaluations (`deeper evaluate`): errors by crops and models, and published weights.

They take the frame that `bench.records.evaluations.evaluation_table` describes. Published errors are of ILSVRC's
validation images: of other images the verdict is "not measured here", with what was found on them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from reproduce.claims.verdicts import Measured, NotMeasured
from reproduce.evaluation.protocols import PAPER

if TYPE_CHECKING:
    import pandas as pd


def multicrop(evaluations: pd.DataFrame) -> Measured:
    """Top-5 errors in per cent, by models and crops as in P Table 3, of the arm evaluated in most of its ways."""
    arms = _arms(evaluations[evaluations["imagenet"].eq(True)])
    if not arms:
        others = [_described(table) for table in _arms(evaluations)]
        raise NotMeasured("; ".join(["nothing evaluated on ImageNet", *others]))
    errors = _errors(arms[0])
    wanted = [_kind(row.models, row.crops) for row in PAPER]
    missing = [kind for kind in wanted if kind not in errors]
    if missing:
        raise NotMeasured(f"{_described(arms[0])}; still to evaluate: {', '.join(missing)}")
    values = {kind: errors[kind] for kind in wanted}
    summary = ", ".join(f"{value:.2f}" for value in values.values())
    return Measured(values=values, summary=f"{summary} %", evidence=_described(arms[0]))


def published_weights(evaluations: pd.DataFrame) -> Measured:
    """Top-1 and top-5 in per cent of torchvision's IMAGENET1K_V1, by one crop."""
    single = evaluations[evaluations["published"].eq(True) & evaluations["crops"].eq(1)]
    on_imagenet = single[single["imagenet"].eq(True)]
    if on_imagenet.empty:
        others = [f"top-1 {100 * row['top1']:.2f} % on {_data(row)}" for _, row in single.iterrows()]
        raise NotMeasured("; ".join(["the weights were not evaluated on ImageNet", *others]))
    last = on_imagenet.iloc[-1]
    values = {"top-1": 100 * float(last["top1"]), "top-5": 100 * float(last["top5"])}
    summary = ", ".join(f"{name} {value:.2f} %" for name, value in values.items())
    return Measured(values=values, summary=summary, evidence=f"one crop on {_data(last)}")


def _arms(evaluations: pd.DataFrame) -> list[pd.DataFrame]:
    """The evaluations of each arm on each data set, those of most kinds first."""
    tables = [table for _, table in evaluations.groupby(["data_hash", "experiment", "arm"], sort=False)]
    return sorted(tables, key=lambda table: -len(table[["models", "crops"]].drop_duplicates()))


def _errors(table: pd.DataFrame) -> dict[str, float]:
    """Top-5 errors in per cent, by models and crops."""
    means = table.groupby(["models", "crops"], as_index=False)["top5"].mean()
    return {_kind(int(row["models"]), int(row["crops"])): 100 * (1 - row["top5"]) for _, row in means.iterrows()}


def _described(table: pd.DataFrame) -> str:
    first = table.iloc[0]
    found = ", ".join(f"{kind} {error:.2f} %" for kind, error in _errors(table).items())
    name = f"{first['experiment']}:{first['arm']}" if first["experiment"] else first["arm"]
    return f"{name} on {_data(first)}: top-5 error by {found}"


def _data(row: pd.Series) -> str:
    return f"{row['data']} ({row['images']} images, {row['classes']} classes)"


def _kind(models: int, crops: int) -> str:
    return f"{models} model{'s' * (models > 1)} × {crops} crop{'s' * (crops > 1)}"


MEASUREMENTS: dict[str, Callable[[pd.DataFrame], Measured]] = {
    "multicrop": multicrop,
    "torchvision-weights": published_weights,
}
