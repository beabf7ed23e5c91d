"""Writes and reads the results of evaluations, which are written once and never changed.

    <records>/evaluations/<hash>/
        predictions.parquet            one row per validation image
        evaluation.json                written last: an evaluation with this file is complete
        parts/                         until then, intermediate results from which a stopped evaluation is resumed

The hash covers everything that determines the numbers: models, protocol and data set. Imports no torch.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.records.plan import experiments, read_plan
from bench.records.predictions import write_predictions
from bench.records.reading import DamagedRecordError, read_json
from reproduce.evaluation.protocols import PUBLISHED, is_imagenet
from reproduce.files.atomic import write_atomically

if TYPE_CHECKING:
    import pandas as pd

RESULT = "evaluation.json"
DATE = "%Y-%m-%dT%H:%M:%SZ"
"""Format of an evaluation's date for `time.strftime`, in UTC."""
TABLE = (
    *("experiment", "arm", "protocol", "models", "crops", "top1", "top5", "images", "classes"),
    *("data", "data_hash", "imagenet", "published", "date", "evaluation"),
)
"""Columns of the frame that `evaluation_table` returns."""


def evaluation_folder(records: Path, protocol: str, models: Sequence[Mapping[str, Any]], data_hash: str) -> Path:
    """The path of an evaluation's folder, which need not exist.

    Args:
        records: The folder of the records.
        protocol: The name of the protocol, a key of `reproduce.evaluation.protocols.CROPS`.
        models: What determines the outputs of each model, as its method `identity()` returns it. The order of the
            models does not affect the path.
        data_hash: The data hash of the validation set.
    """
    content = [protocol, sorted(json.dumps(model, sort_keys=True) for model in models), data_hash]
    return records / "evaluations" / hashlib.sha256(json.dumps(content).encode()).hexdigest()[:12]


def read_evaluation(folder: Path) -> dict[str, Any] | None:
    """Read the `evaluation.json` in an evaluation's folder.

    Returns:
        Its content as `write_evaluation` was given it; None if the evaluation is not complete.

    Raises:
        DamagedRecordError: The file is damaged.
    """
    path = folder / RESULT
    try:
        content: dict[str, Any] = read_json(path, dict)
    except FileNotFoundError:
        return None
    models = content.get("models")
    if not (isinstance(models, list) and models and all(isinstance(model, dict) for model in models)):
        raise DamagedRecordError(path, "it does not name its models")
    return content


def evaluation_files(records: Path) -> list[Path]:
    """List the path of `evaluation.json` of each complete evaluation in the records, sorted by path."""
    return sorted((records / "evaluations").glob(f"*/{RESULT}"))


def parts_folder(folder: Path) -> Path:
    """The path of the folder in which an unfinished evaluation keeps its intermediate results."""
    return folder / "parts"


def write_evaluation(folder: Path, content: Mapping[str, Any], predictions: Mapping[str, Any]) -> None:
    """Write the files of a new evaluation and remove its intermediate results.

    `evaluation.json` is written last, so that a folder with this file is complete.

    Args:
        folder: The evaluation's folder, which is created if necessary.
        content: The content of `evaluation.json`. For `evaluation_table` it needs protocol, crops, top1, top5, date,
            models (for each at least experiment and arm) and data (source, hash, classes, images).
        predictions: The columns of `predictions.parquet`; see `write_predictions`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_predictions(folder, predictions)
    write_atomically(folder / RESULT, json.dumps(content, indent=1).encode())
    shutil.rmtree(parts_folder(folder), ignore_errors=True)


def evaluation_table(records: Path, plans: Mapping[str, str | None] | None = None) -> pd.DataFrame:
    """Tabulate the complete evaluations of files of weights and of planned runs, one per row, oldest first.

    Evaluations of runs that are not in the plan of their experiment are left out: an experiment that was edited under
    its old name has runs that differ in more than the seed. An experiment without a plan in the records has them all.

    Args:
        records: The folder of the records.
        plans: The hash of an older plan, by the name of an experiment. All others have their present plans.

    Returns:
        A frame with the columns of `TABLE`:

        - `experiment`, `arm`: those of the runs, each named once and separated by commas. A file of weights has an
          empty experiment, and its name as the arm.
        - `models`, `crops`: numbers of models and of crops per image that are averaged.
        - `top1`, `top5`: accuracies from 0 to 1.
        - `images`, `classes`: numbers of validation images and of classes.
        - `data`, `data_hash`: name of the data set's source, and the data hash.
        - `imagenet`: whether the validation set has the size and the order of classes of ILSVRC 2014's.
        - `published`: whether the only model is torchvision's published weights.
        - `date`: text in the format `DATE`.
        - `evaluation`: name of the evaluation's folder.

    Raises:
        DamagedRecordError: The file of a plan or of an evaluation is damaged.
    """
    import pandas as pd

    planned = {
        name: {entry.key: entry.arm for entry in read_plan(records, name, (plans or {}).get(name))}
        for name in experiments(records)
    }
    rows = []
    for path in evaluation_files(records):
        content = read_evaluation(path.parent)
        if content is None:  # it has just been removed
            continue
        models = _planned_models(content["models"], planned)
        if models is not None:
            rows.append(_table_row(path.parent.name, {**content, "models": models}))
    return pd.DataFrame(rows, columns=list(TABLE)).sort_values(["date", "evaluation"], ignore_index=True)


def _planned_models(
    models: Sequence[Mapping[str, Any]], planned: Mapping[str, Mapping[str, str]]
) -> list[Mapping[str, Any]] | None:
    """Give the models of an evaluation the experiment and the arms that a plan gives to its runs.

    Args:
        models: The models, as the evaluation describes them.
        planned: The arms by key, by the name of an experiment.

    Returns:
        The models; None if they are runs that belonged to an experiment when they were evaluated, and are in no plan.
    """
    keys = [model["run"] for model in models if "run" in model]
    named = [str(model["experiment"]) for model in models if "run" in model]
    if not any(name in planned for name in named):
        return list(models)
    for name in (*dict.fromkeys(named), *planned):
        arms = planned.get(name, {})
        if all(key in arms for key in keys):
            return [
                {**model, "experiment": name, "arm": arms[model["run"]]} if "run" in model else model
                for model in models
            ]
    return None


def _table_row(name: str, content: Mapping[str, Any]) -> dict[str, Any]:
    models, data = content["models"], content["data"]
    return {
        **{column: content[column] for column in ("protocol", "crops", "top1", "top5", "date")},
        **{column: ", ".join(dict.fromkeys(model[column] for model in models)) for column in ("experiment", "arm")},
        "models": len(models),
        "images": data["images"],
        "classes": data["classes"],
        "data": data["source"],
        "data_hash": data["hash"],
        "imagenet": is_imagenet(data),
        "published": len(models) == 1 and models[0].get("sha256", "").startswith(PUBLISHED),
        "evaluation": name,
    }
