"""Evaluations of finished runs, which are written once and never changed.

    <records>/evaluations/<hash>/    predictions.parquet, then evaluation.json, which makes the folder complete; until
                                     then parts/, from which an evaluation that was stopped is resumed

The hash covers everything that determines the numbers: models, protocol and data set. Imports no torch.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.records.predictions import write_predictions
from reproduce.atomic import write_atomically
from reproduce.evaluation.protocols import PUBLISHED, is_imagenet

if TYPE_CHECKING:
    import pandas as pd

RESULT = "evaluation.json"
DATE = "%Y-%m-%dT%H:%M:%SZ"
"""Format of an evaluation's date, in UTC."""
TABLE = (
    *("experiment", "arm", "protocol", "models", "crops", "top1", "top5", "images", "classes"),
    *("data", "data_hash", "imagenet", "published", "date", "evaluation"),
)
"""Columns of `evaluation_table`."""


def evaluation_folder(records: Path, protocol: str, models: Sequence[Mapping[str, Any]], data_hash: str) -> Path:
    """The folder of an evaluation; it need not exist yet.

    Args:
        records: folder of the records.
        protocol: name of the protocol.
        models: for each model what determines its outputs (`identity()`); their order does not matter.
        data_hash: hash of the data set.
    """
    content = [protocol, sorted(json.dumps(model, sort_keys=True) for model in models), data_hash]
    return records / "evaluations" / hashlib.sha256(json.dumps(content).encode()).hexdigest()[:12]


def read_evaluation(folder: Path) -> dict[str, Any] | None:
    """Read `evaluation.json`; None if the evaluation is not complete."""
    try:
        content: dict[str, Any] = json.loads((folder / RESULT).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return content


def evaluation_files(records: Path) -> list[Path]:
    """List the `evaluation.json` of each complete evaluation in these records."""
    return sorted((records / "evaluations").glob(f"*/{RESULT}"))


def parts_folder(folder: Path) -> Path:
    """The folder in which an evaluation keeps its intermediate results."""
    return folder / "parts"


def write_evaluation(folder: Path, content: Mapping[str, Any], predictions: Mapping[str, Any]) -> None:
    """Write a new evaluation and remove its intermediate results.

    Args:
        folder: the evaluation's folder.
        content: what `evaluation.json` holds.
        predictions: columns as `write_predictions` takes them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_predictions(folder, predictions)
    write_atomically(folder / RESULT, json.dumps(content, indent=1).encode())
    shutil.rmtree(parts_folder(folder), ignore_errors=True)


def evaluation_table(records: Path) -> pd.DataFrame:
    """Tabulate all evaluations in these records, one row each, oldest first.

    Returns:
        A frame with the columns of `TABLE`. `experiment` and `arm` are those of the runs, separated by commas; a file
        of weights has no experiment, and its name is the arm. `top1` and `top5` are accuracies from 0 to 1. `data` is
        the name of the data set's source. `imagenet` says whether the images are ILSVRC's validation set, `published`
        whether the only model is torchvision's published weights. `evaluation` is the name of the folder.
    """
    import pandas as pd

    rows = [
        _table_row(path.parent.name, json.loads(path.read_text(encoding="utf-8"))) for path in evaluation_files(records)
    ]
    return pd.DataFrame(rows, columns=list(TABLE)).sort_values(["date", "evaluation"], ignore_index=True)


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
        "imagenet": is_imagenet(data["classes"], data["images"]),
        "published": len(models) == 1 and models[0].get("sha256", "").startswith(PUBLISHED),
        "evaluation": name,
    }
