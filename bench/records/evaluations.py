"""Evaluations beside the records: which run a name means, and results that are written once.

    <records>/evaluations/<hash>/    predictions.parquet, then evaluation.json: a folder that has it is complete;
                                     until then parts/, from which one that was stopped goes on

The hash is that of what determines the numbers (models, protocol, data set), so an evaluation is never repeated and
never overwritten. Imports no torch.
"""

from __future__ import annotations

import calendar
import hashlib
import json
import re
import shutil
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from bench.records.record import PlanEntry, Record, experiments, read_plan, write_atomically
from bench.records.states import read_state, run_folder
from reproduce import schema
from reproduce.evaluation.protocols import PAPER, PUBLISHED, PaperRow, is_imagenet
from reproduce.spec import RunConfig, SpecError, validated

if TYPE_CHECKING:
    import pandas as pd

RESULT = "evaluation.json"
DATE = "%Y-%m-%dT%H:%M:%SZ"  # in UTC
TABLE = (
    *("experiment", "arm", "protocol", "models", "crops", "top1", "top5", "images", "classes"),
    *("data", "data_hash", "imagenet", "published", "date", "evaluation"),
)


@dataclass(frozen=True)
class RecordedRun:
    """A finished run with predictions."""

    experiment: str
    """Empty where no experiment here plans the run."""
    arm: str
    label: str
    """EXPERIMENT:ARM:SEED, or the key."""
    folder: Path
    config: RunConfig


def find_runs(records: Path, names: Iterable[str]) -> list[RecordedRun]:
    """The runs that names mean, each once: a key, or EXPERIMENT:ARM:SEED; without SEED all seeds of the arm.

    Raises `SpecError` for an unknown run, and one that is not finished or has no predictions.
    """
    found: dict[str, RecordedRun] = {}
    for name in names:
        for experiment, entry in _planned(records, name):
            if entry.key not in found:
                found[entry.key] = _recorded(records, experiment, entry)
    return list(found.values())


def own_validation(run: RecordedRun) -> dict[str, Any]:
    """What the run's own final validation found, as an evaluation by one crop."""
    import pandas as pd

    table = pd.read_parquet(run.folder / schema.ARTIFACT_PREDICTIONS, columns=["label", "top5", "correct"])
    hits = [label in best for label, best in zip(table["label"], table["top5"], strict=True)]
    top1, top5 = float(table["correct"].mean()), sum(hits) / len(hits)
    return {"models": [{"run": run.config.key}], "crops": 1, "top1": top1, "top5": top5}


def _planned(records: Path, name: str) -> list[tuple[str, PlanEntry]]:
    """Experiment and plan entry of each run that a name means."""
    if re.fullmatch(r"[0-9a-f]{12}", name):
        if not run_folder(records, name).is_dir():
            raise SpecError(f"run: {name!r} has no record in {records}")
        plans = ((experiment, entry) for experiment in experiments(records) for entry in read_plan(records, experiment))
        unplanned = ("", PlanEntry(key=name, arm=name, seed=0, name=name, epochs=0))
        return [next((planned for planned in plans if planned[1].key == name), unplanned)]
    experiment, *rest = re.split("[:/]", name)
    arm, seed = (*rest, "", "")[:2]
    if not rest or len(rest) > 2 or (seed and not seed.isdigit()):
        raise SpecError(f"run: {name!r} names no run; give a key (12 hexadecimal digits) or EXPERIMENT:ARM[:SEED]")
    plan = read_plan(records, experiment)
    of_arm = [entry for entry in plan if entry.arm == arm]
    if not of_arm:
        arms = ", ".join(dict.fromkeys(entry.arm for entry in plan))
        raise SpecError(f"run: {name!r}: {experiment} has no arm {arm!r}; it has {arms}")
    chosen = [entry for entry in of_arm if not seed or entry.seed == int(seed)]
    if not chosen:
        seeds = ", ".join(str(entry.seed) for entry in of_arm)
        raise SpecError(f"run: {name!r}: {arm} has no seed {seed}; it has {seeds}")
    return [(experiment, entry) for entry in chosen]


def _recorded(records: Path, experiment: str, entry: PlanEntry) -> RecordedRun:
    label = f"{experiment}:{entry.arm}:{entry.seed}" if experiment else entry.key
    folder = run_folder(records, entry.key)
    status = read_state(folder).status
    if status != schema.FINISHED:
        raise SpecError(f"run: {label} ({entry.key}) is {status}; only a finished run can be evaluated")
    if not (folder / schema.ARTIFACT_PREDICTIONS).is_file():
        raise SpecError(
            f"run: {label} ({entry.key}) has no {schema.ARTIFACT_PREDICTIONS} in {folder}; `deeper run` makes it"
        )
    config = yaml.safe_load((folder / schema.ARTIFACT_CONFIG).read_text(encoding="utf-8"))
    where = f"{folder / schema.ARTIFACT_CONFIG}: "
    return RecordedRun(experiment, entry.arm, label, folder, validated(RunConfig, config, where=where))


# --- what is kept ----------------------------------------------------------------------------------


def evaluation_folder(records: Path, protocol: str, models: Sequence[Mapping[str, Any]], data_hash: str) -> Path:
    """Where an evaluation lies; the order of the models does not matter.

    models: what determines the outputs of each (`identity()`).
    """
    content = [protocol, sorted(json.dumps(model, sort_keys=True) for model in models), data_hash]
    return records / "evaluations" / hashlib.sha256(json.dumps(content).encode()).hexdigest()[:12]


def read_evaluation(folder: Path) -> dict[str, Any] | None:
    """None where there is none yet."""
    try:
        content: dict[str, Any] = json.loads((folder / RESULT).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return content


def parts_folder(folder: Path) -> Path:
    """Where an evaluation keeps what it has found so far."""
    return folder / "parts"


def write_evaluation(folder: Path, content: Mapping[str, Any], predictions: Mapping[str, Any]) -> None:
    """Write a new evaluation; whole once its JSON is there, and then its parts are needed no more."""
    folder.mkdir(parents=True, exist_ok=True)
    Record(folder).predictions(predictions)
    write_atomically(folder / RESULT, json.dumps(content, indent=1).encode())
    shutil.rmtree(parts_folder(folder), ignore_errors=True)


def evaluation_table(records: Path) -> pd.DataFrame:
    """Every evaluation kept in `records`, a row each, oldest first; columns as in `TABLE`.

    experiment, arm: of the runs, several joined by commas; of weights "" and the file's name. top1, top5: 0 to 1.
    data: the source's name. imagenet: whether the images are ILSVRC's validation set. published: whether the one model
    is torchvision's published weights. evaluation: name of the folder.
    """
    import pandas as pd

    paths = (records / "evaluations").glob(f"*/{RESULT}")
    rows = [_table_row(path.parent.name, json.loads(path.read_text(encoding="utf-8"))) for path in paths]
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


# --- for the tracking store ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Unpublished:
    """An evaluation of which a tracking store does not know yet."""

    path: Path
    runs: tuple[str, ...]
    """Keys of those of its runs that the experiment plans."""
    alone: bool
    """Whether it is of one run and not of an ensemble."""
    metrics: tuple[tuple[str, float, int, int], ...]
    """Name, value, milliseconds, step."""
    marker: Path
    """A file that says, once it is there, that the store knows."""

    @property
    def name(self) -> str:
        return self.path.parent.name


def unpublished(records: Path, experiment: str, markers: Path) -> list[Unpublished]:
    """Evaluations of an experiment's runs that have no marker yet."""
    planned = {entry.key for entry in read_plan(records, experiment)}
    found = []
    for path in sorted((records / "evaluations").glob(f"*/{RESULT}")):
        marker = markers / f"evaluation-{path.parent.name}.json"
        if marker.exists():
            continue
        content = json.loads(path.read_text(encoding="utf-8"))
        models = [model.get("run") for model in content["models"]]
        then = calendar.timegm(time.strptime(content["date"], DATE)) * 1000
        names = {measure: f"{schema.EVALUATION}{content['protocol']}/{measure}" for measure in ("top1", "top5")}
        metrics = tuple((name, content[measure], then, 0) for measure, name in names.items())
        runs = tuple(key for key in models if key in planned)
        if runs:
            found.append(Unpublished(path, runs, len(models) == 1, metrics, marker))
    return found


# --- the paper's Table 3 -----------------------------------------------------------------------------


@dataclass(frozen=True)
class TableRow:
    """A row of the layout of P Table 3; errors in per cent, differences in percentage points."""

    models: int
    crops: int
    cost: int
    """Forward passes of an image."""
    top1_error: float
    top5_error: float
    compared_to_base: float | None
    """None where the base, one crop of the first model, is not known."""
    paper: PaperRow | None
    """The paper's row of so many models and crops; None where there is none or the data are not comparable."""


def table_rows(evaluations: Iterable[Mapping[str, Any]], *, imagenet: bool) -> list[TableRow]:
    """Rows of evaluations, fewest models and crops first; of two with as many models and crops the last counts."""
    found = {(len(evaluation["models"]), evaluation["crops"]): evaluation for evaluation in evaluations}
    paper = {(row.models, row.crops): row for row in PAPER} if imagenet else {}
    base = 100 * (1 - found[1, 1]["top5"]) if (1, 1) in found else None
    rows = []
    for (models, crops), evaluation in sorted(found.items()):
        top1, top5 = (100 * (1 - evaluation[name]) for name in ("top1", "top5"))
        change = None if base is None else top5 - base
        rows.append(TableRow(models, crops, models * crops, top1, top5, change, paper.get((models, crops))))
    return rows
