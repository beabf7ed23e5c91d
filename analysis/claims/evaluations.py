"""Measurements on evaluations (`deeper evaluate`): errors by models and crops, and the accuracy of published weights.

The measurements take the frame that `bench.records.evaluations.evaluation_table` returns. Published errors were
measured on ILSVRC's validation images, so evaluations on other images decide no claim. Their results appear in the
evidence of findings with the verdict "not measured here".
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pandas as pd

from analysis.tables import counted, percent
from reproduce.claims.ledger import Value
from reproduce.claims.verdicts import Measured, NotMeasured

MODELS, CROPS = (1, 7), (1, 10, 144)
"""Numbers of models and of crops. Table 3 of Szegedy et al. 2014 has the top-5 error of every combination."""


def multicrop(evaluations: pd.DataFrame) -> Measured[Value]:
    """Measure the top-5 errors of Table 3 of Szegedy et al. 2014 on ImageNet, for one arm.

    The arm is the one that was evaluated on ImageNet with the most combinations of models and crops. Several
    evaluations of one combination are averaged.

    Args:
        evaluations: One row for each evaluation, in the format of `evaluation_table`.

    Returns:
        The measured top-5 error in percent for every combination of `MODELS` and `CROPS`. The names of the values have
        the form `7 models × 144 crops`.

    Raises:
        NotMeasured: Nothing was evaluated on ImageNet, or the arm lacks one of the combinations.
    """
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
    """Measure the accuracy of torchvision's weights IMAGENET1K_V1 on ImageNet with one crop.

    Args:
        evaluations: One row for each evaluation, oldest first, in the format of `evaluation_table`. If there are
            several of these weights, the last one is used.

    Returns:
        The measured values `top-1` and `top-5`: the accuracies in percent.

    Raises:
        NotMeasured: The weights were not evaluated on ImageNet with one crop.
    """
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
    """Split evaluations by arm and data set; the frame with the most combinations of models and crops comes first."""
    tables = [table for _, table in evaluations.groupby(["data_hash", "experiment", "arm"], sort=False)]
    return sorted(tables, key=lambda table: -len(table[["models", "crops"]].drop_duplicates()))


def _errors(table: pd.DataFrame) -> dict[str, float]:
    """Compute the mean top-5 error in percent for each combination of models and crops."""
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
"""The measurements on evaluations, by the name that the ledger uses."""
