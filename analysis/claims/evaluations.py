"""Measurements on evaluations (`deeper evaluate`): errors by crops and models, and the accuracy of published weights.

They take the frame that `bench.records.evaluations.evaluation_table` describes. Published errors are those on ILSVRC's
validation images. Evaluations on other images decide nothing; what was found on them is told with the verdict "not
measured here".
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pandas as pd

from analysis.tables import counted, percent
from reproduce.claims.ledger import Value
from reproduce.claims.verdicts import Measured, NotMeasured

MODELS, CROPS = (1, 7), (1, 10, 144)
"""The combinations of which Szegedy et al. 2014 give the top-5 error in Table 3."""


def multicrop(evaluations: pd.DataFrame) -> Measured[Value]:
    """Top-5 errors in percent by models and crops, as in Table 3, of the arm with the most of these combinations."""
    arms = _arms(evaluations[evaluations["imagenet"].eq(True)])
    if not arms:
        others = [_described(table) for table in _arms(evaluations)]
        raise NotMeasured("; ".join(["nothing evaluated on ImageNet", *others]))
    errors = _errors(arms[0])
    wanted = [_combination(*pair) for pair in itertools.product(MODELS, CROPS)]
    missing = [name for name in wanted if name not in errors]
    if missing:
        raise NotMeasured(f"{_described(arms[0])}; still to evaluate: {', '.join(missing)}")
    values: dict[str, Value] = {name: errors[name] for name in wanted}
    summary = ", ".join(f"{errors[name]:.2f}" for name in wanted)
    return Measured(values=values, summary=f"{summary} %", evidence=_described(arms[0]))


def published_weights(evaluations: pd.DataFrame) -> Measured[Value]:
    """Top-1 and top-5 in percent of torchvision's weights IMAGENET1K_V1, on one crop."""
    single = evaluations[evaluations["published"].eq(True) & evaluations["crops"].eq(1)]
    on_imagenet = single[single["imagenet"].eq(True)]
    if on_imagenet.empty:
        others = [f"top-1 {percent(row['top1'])} % on {_data(row)}" for _, row in single.iterrows()]
        raise NotMeasured("; ".join(["the weights were not evaluated on ImageNet", *others]))
    last = on_imagenet.iloc[-1]
    values: dict[str, Value] = {"top-1": 100 * float(last["top1"]), "top-5": 100 * float(last["top5"])}
    summary = f"top-1 {percent(last['top1'])} %, top-5 {percent(last['top5'])} %"
    return Measured(values=values, summary=summary, evidence=f"one crop on {_data(last)}")


def _arms(evaluations: pd.DataFrame) -> list[pd.DataFrame]:
    """The evaluations of each arm on each data set, the arm with the most combinations of models and crops first."""
    tables = [table for _, table in evaluations.groupby(["data_hash", "experiment", "arm"], sort=False)]
    return sorted(tables, key=lambda table: -len(table[["models", "crops"]].drop_duplicates()))


def _errors(table: pd.DataFrame) -> dict[str, float]:
    """Top-5 errors in percent, by models and crops."""
    means = table.groupby(["models", "crops"], as_index=False)["top5"].mean()
    return {_combination(int(row["models"]), int(row["crops"])): 100 * (1 - row["top5"]) for _, row in means.iterrows()}


def _described(table: pd.DataFrame) -> str:
    first = table.iloc[0]
    found = ", ".join(f"{name} {error:.2f} %" for name, error in _errors(table).items())
    arm = f"{first['experiment']}:{first['arm']}" if first["experiment"] else first["arm"]
    return f"{arm} on {_data(first)}: top-5 error {found}"


def _data(row: pd.Series) -> str:
    return f"{row['data']} ({row['images']} images, {row['classes']} classes)"


def _combination(models: int, crops: int) -> str:
    return f"{counted(models, 'model')} × {counted(crops, 'crop')}"


MEASUREMENTS: dict[str, Callable[[pd.DataFrame], Measured[Value]]] = {
    "multicrop": multicrop,
    "torchvision-weights": published_weights,
}
