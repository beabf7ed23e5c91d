"""Adds `deeper evaluate` to the command line, and finds the models and the data that its options name."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.commands.experiments.names import recorded_name
from bench.console.exit_codes import DONE
from bench.console.options import Subparsers, add_command, add_json, add_plan, any_path, require_writable_records
from bench.console.output import print_result
from reproduce.errors import UserError
from reproduce.evaluation.protocols import CROPS, is_imagenet

if TYPE_CHECKING:
    from bench.records.finished_runs import RecordedRun
    from reproduce.data import Manifest
    from reproduce.evaluation.models import ModelReference

IMAGENET_CLASSES = 1000
EXAMPLES = """examples:
  deeper evaluate ablation-imagenette:reduced-both:0 --protocol 144-crop
  deeper evaluate ablation-imagenette:reduced-both --protocol 10-crop       # all seeds, as an ensemble
  deeper evaluate 4fc8fd0aa446 b0c4147cf363 --protocol 144-crop --workers 2
  deeper evaluate --weights googlenet-1378be20.pth --on data/imagenet

Probabilities are averaged over crops and then over models. The table has the layout of the paper's Table 3 and includes
earlier evaluations of the same models. The classes of weights are those of the data set, sorted by name as text.
After Ctrl-C, the same command resumes; an evaluation that is complete is shown and not repeated.
"""


def add_to(subparsers: Subparsers, places: argparse.ArgumentParser) -> None:
    """Add `deeper evaluate` to the command line."""
    help = "Evaluate runs or weights by 1, 10 or 144 crops, several as an ensemble."
    parser = add_command(subparsers, places, "evaluate", _evaluate, help, examples=EXAMPLES)
    parser.add_argument("run", nargs="*", metavar="RUN", help="The key of a run, or EXPERIMENT:ARM[:SEED].")
    parser.add_argument(
        "--protocol",
        choices=tuple(CROPS),
        default="single",
        help="single: the run's own validation. 10-crop: corners and centre of the central square at shorter side 256, "
        "mirrored. 144-crop: Szegedy et al. 2014, section 7. At resolutions other than 224, sides are scaled in "
        "proportion. Default: single.",
    )
    parser.add_argument(
        "--weights", action="append", default=[], type=any_path, metavar="FILE", help="A state dict. May be repeated."
    )
    parser.add_argument(
        "--layout",
        choices=("torchvision", "plain"),
        default="torchvision",
        help="The layout of the weights. Default: torchvision.",
    )
    parser.add_argument(
        "--transform-input",
        choices=("yes", "no"),
        help="Whether the weights expect torchvision's transform_input. Known for the published file.",
    )
    parser.add_argument(
        "--class-order",
        choices=("text",),
        help="Confirm that the weights number classes called 0, 1, 2, ... in the order of text (0, 1, 10, ...).",
    )
    parser.add_argument(
        "--on", type=any_path, metavar="FOLDER", help="The prepared data set. Default: that of the runs, below --data."
    )
    parser.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help="The number of processes that share the images. Default: one a GPU, else 1.",
    )
    parser.add_argument("--no-publish", action="store_true", help="Only write the files; MLflow gets the result later.")
    add_plan(parser)
    add_json(parser)


def _evaluate(arguments: argparse.Namespace) -> int:
    require_writable_records(arguments)
    for run in arguments.run:
        if ":" in run:
            recorded_name(run.partition(":")[0], arguments.records)
    named = [run for run in arguments.run if re.search("[:/]", run)]
    if arguments.plan and not named:
        raise UserError(f"--plan: {arguments.plan!r} chooses among runs that are named as EXPERIMENT:ARM; leave it out")

    from bench.records.finished_runs import find_runs, other_runs, own_validation
    from bench.records.plan import read_plan

    runs = find_runs(arguments.records, arguments.run, arguments.plan)
    for name in dict.fromkeys(re.split("[:/]", run)[0] for run in named):
        others = other_runs(arguments.records, name, read_plan(arguments.records, name, arguments.plan))
        if others:
            print(f"{name}: {len(others)} other recorded runs are not in the plan and are left out", file=sys.stderr)

    from bench.commands.evaluate.paper_table import table_rows
    from bench.commands.evaluate.printing import show_evaluation
    from bench.commands.evaluate.running import run_evaluation
    from bench.records.evaluations import evaluation_folder, read_evaluation
    from bench.tracking.mlflow_setup import require_mlflow

    sources, descriptions = _models(arguments, runs)
    folder, manifest = _data_set(arguments, runs)
    _check_classes(sources[len(runs) :], folder, manifest, arguments.class_order)
    identities = [source.identity() for source in sources]
    target = evaluation_folder(arguments.records, arguments.protocol, identities, manifest.hash)
    content = read_evaluation(target)
    if content is None:
        publish = bool(runs) and not arguments.no_publish
        if publish:
            require_mlflow()
        content = run_evaluation(
            sources, descriptions, folder, manifest, target, protocol=arguments.protocol, workers=arguments.workers
        )
        if publish:
            _publish(arguments.records)

    related: list[Any] = [own_validation(runs[0])] if runs else []
    for count in range(1, len(sources) + 1):
        for protocol in CROPS:
            other = evaluation_folder(arguments.records, protocol, identities[:count], manifest.hash)
            related.append(read_evaluation(other))
    data = content["data"]
    rows = table_rows(filter(None, related), imagenet=is_imagenet(data))
    result = {"folder": str(target), **content, "table": [asdict(row) for row in rows]}
    print_result(arguments, result, lambda: show_evaluation(content, rows, target))
    return DONE


def _publish(records: Path) -> None:
    """Publish everything new in these records, the evaluation included, to MLflow, and wait until that is done."""
    from bench.tracking.background import start_publisher, stop_publisher

    not_published = stop_publisher(start_publisher(records))
    if not_published:
        print(not_published, file=sys.stderr)


def _models(
    arguments: argparse.Namespace, runs: Sequence[RecordedRun]
) -> tuple[list[ModelReference], list[dict[str, str]]]:
    """Return the models, runs first, and for each model its name, experiment and arm."""
    from reproduce.evaluation.models import EvaluationError, FileModel, RunModel

    transform = {"yes": True, "no": False, None: None}[arguments.transform_input]
    if transform is not None and (not arguments.weights or arguments.layout != "torchvision"):
        raise EvaluationError("--transform-input: applies only to --weights in torchvision's layout; leave it out")
    files = [FileModel(path, arguments.layout, transform) for path in arguments.weights]
    if not runs and not files:
        raise EvaluationError("run: nothing to evaluate; name a RUN, or --weights FILE --on FOLDER")
    descriptions = [{"name": run.label, "experiment": run.experiment, "arm": run.arm} for run in runs]
    descriptions += [{"name": file.name, "experiment": "", "arm": file.name} for file in files]
    return [*(RunModel(run.config, run.folder) for run in runs), *files], descriptions


def _data_set(arguments: argparse.Namespace, runs: Sequence[RecordedRun]) -> tuple[Path, Manifest]:
    """Return the folder and the manifest of the prepared data set that all models are evaluated on."""
    from reproduce.data import DataError, verify_changed
    from reproduce.evaluation.models import EvaluationError

    for run in runs[1:]:
        if run.config.data_hash != runs[0].config.data_hash:
            raise EvaluationError(
                f"run: {run.label} was validated on other images ({run.config.data.path}) than {runs[0].label} "
                f"({runs[0].config.data.path}); an ensemble needs one validation set"
            )
    if not runs and arguments.on is None:
        raise EvaluationError("--on: missing; name the prepared data set that the weights are evaluated on")
    folder: Path = arguments.on or arguments.data / runs[0].config.data.path
    manifest = verify_changed(folder)
    if runs and manifest.hash != runs[0].config.data_hash:
        raise DataError(
            f"{folder}: hash {manifest.hash[:12]}, but {runs[0].label} was trained on {runs[0].config.data_hash[:12]}; "
            "name the same data set with --data or --on"
        )
    return folder, manifest


def _check_classes(files: Sequence[ModelReference], folder: Path, manifest: Manifest, order: str | None) -> None:
    from reproduce.evaluation.models import EvaluationError

    for file in files:
        file.check()
        if file.classes != len(manifest.classes):
            raise EvaluationError(
                f"--weights: {file.name} has {file.classes} classes, {folder} has {len(manifest.classes)}; "
                "the models of an evaluation and its data need the same classes"
            )
        if manifest.numbers_as_text and order is None:
            raise EvaluationError(
                f"--class-order: missing; the classes of {folder} are numbers in the order of text "
                f"({', '.join(manifest.classes[:4])}, ...); if {file.name} numbers them in this order, as trained with "
                "torchvision's ImageFolder, give text; if by the numbers, rename the folders with leading zeros "
                "(000, 001, ...) and prepare them again"
            )
        if len(manifest.classes) == IMAGENET_CLASSES and not manifest.by_wordnet_id:
            print(
                f"{folder}: its classes ({', '.join(manifest.classes[:3])}, ...) are not sorted WordNet ids; weights "
                f"of ImageNet, such as {file.name} may be, number them in another order",
                file=sys.stderr,
            )
