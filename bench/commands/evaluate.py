"""`deeper evaluate`: a run, several as an ensemble, or public weights, by the paper's protocols."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.console.exit_codes import DONE
from bench.console.options import add_verb
from reproduce.evaluation.protocols import CROPS, is_imagenet, sides

if TYPE_CHECKING:
    from rich.console import Console

    from bench.records.finished_runs import RecordedRun
    from bench.records.paper_table import TableRow
    from reproduce.data import Manifest
    from reproduce.evaluation.ensemble import EvaluationConfig
    from reproduce.evaluation.models import ModelReference
    from reproduce.execution.validation import Validation

EXAMPLES = """examples:
  deeper evaluate ablation-imagenette:reduced-both:0 --protocol 144-crop
  deeper evaluate ablation-imagenette:reduced-both --protocol 10-crop       # all seeds, as an ensemble
  deeper evaluate 4fc8fd0aa446 b0c4147cf363 --protocol 144-crop --workers 2
  deeper evaluate --weights googlenet-1378be20.pth --on data/imagenet

Probabilities are averaged over crops and then over models. The table has the layout of the paper's Table 3, with what
has been evaluated before of the same models. Classes of weights are those of the data set, sorted by name. After
Ctrl-C the same command goes on where it was; an evaluation that is there already is shown, not repeated.
"""


def add_to(verbs: Any, places: argparse.ArgumentParser) -> None:
    help = "runs or weights by single crop, 10 crops, 144 crops; several as an ensemble"
    parser = add_verb(verbs, places, "evaluate", _evaluate, help, examples=EXAMPLES)
    parser.add_argument("run", nargs="*", metavar="RUN", help="a run's key, or EXPERIMENT:ARM[:SEED]")
    parser.add_argument(
        "--protocol",
        choices=tuple(CROPS),
        default="single",
        help="single: the run's own validation. 10-crop: corners and centre of the central square at shorter side 256, "
        "mirrored. 144-crop: P section 7. Sides in proportion at resolutions other than 224 (single)",
    )
    parser.add_argument("--weights", action="append", default=[], type=Path, metavar="FILE", help="a state dict")
    parser.add_argument("--layout", choices=("torchvision", "plain"), default="torchvision", help="of --weights")
    parser.add_argument(
        "--transform-input",
        choices=("yes", "no"),
        help="whether --weights want torchvision's transform_input (known for the published file)",
    )
    parser.add_argument("--on", type=Path, metavar="PATH", help="prepared data set (that of the runs, under --data)")
    parser.add_argument("--workers", type=int, help="processes that share the images (one a GPU, else 1)")
    parser.add_argument("--no-publish", action="store_true", help="keep only the files; MLflow gets the result later")
    parser.add_argument("--json", action="store_true", help="for programs")


def _evaluate(arguments: argparse.Namespace) -> int:
    from bench.records.evaluations import evaluation_folder, read_evaluation
    from bench.records.finished_runs import find_runs, own_validation
    from bench.records.paper_table import table_rows
    from bench.tracking.mlflow_setup import require_mlflow
    from reproduce.evaluation.models import EvaluationError

    runs = find_runs(arguments.records, arguments.run)
    sources, about = _models(arguments, runs)
    folder, manifest = _data(arguments, runs)
    for source in sources[len(runs) :]:
        source.check()
        if source.classes != len(manifest.classes):
            raise EvaluationError(
                f"--weights: {source.name} has {source.classes} classes, {folder} has {len(manifest.classes)}; "
                "models of one evaluation and its data need the same classes"
            )
    identities = [source.identity() for source in sources]
    target = evaluation_folder(arguments.records, arguments.protocol, identities, manifest.hash)
    content = read_evaluation(target)
    if content is None:
        publish = bool(runs) and not arguments.no_publish
        if publish:
            require_mlflow()
        content = _carry_out(arguments, sources, about, folder, manifest, target)
        if publish:
            _publish(arguments.records)

    beside: list[Any] = [own_validation(runs[0])] if runs else []
    for count in range(1, len(sources) + 1):
        for protocol in CROPS:
            other = evaluation_folder(arguments.records, protocol, identities[:count], manifest.hash)
            beside.append(read_evaluation(other))
    data = content["data"]
    rows = table_rows(filter(None, beside), imagenet=is_imagenet(data["classes"], data["images"]))
    if arguments.json:
        print(json.dumps({"folder": str(target), **content, "table": [asdict(row) for row in rows]}, indent=1))
    else:
        _show(content, rows, target)
    return DONE


def _publish(records: Path) -> None:
    """Bring what was found to the runs in MLflow."""
    from bench.tracking.background import start_publisher, stop_publisher

    not_published = stop_publisher(start_publisher(records))
    if not_published:
        print(not_published, file=sys.stderr)


def _models(
    arguments: argparse.Namespace, runs: Sequence[RecordedRun]
) -> tuple[list[ModelReference], list[dict[str, str]]]:
    """The models, runs first, and what people know each by."""
    from reproduce.evaluation.models import EvaluationError, FileModel, RunModel

    transform = {"yes": True, "no": False, None: None}[arguments.transform_input]
    if transform is not None and (not arguments.weights or arguments.layout != "torchvision"):
        raise EvaluationError("--transform-input: is about --weights in torchvision's layout alone; leave it out")
    files = [FileModel(path, arguments.layout, transform) for path in arguments.weights]
    if not runs and not files:
        raise EvaluationError("run: nothing to evaluate; name a RUN, or --weights FILE --on PATH")
    about = [{"name": run.label, "experiment": run.experiment, "arm": run.arm} for run in runs]
    about += [{"name": file.name, "experiment": "", "arm": file.name} for file in files]
    return [*(RunModel(run.config, run.folder) for run in runs), *files], about


def _data(arguments: argparse.Namespace, runs: Sequence[RecordedRun]) -> tuple[Path, Manifest]:
    """The prepared data set that all models are evaluated on."""
    from reproduce.data import DataError, load_manifest
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
    manifest = load_manifest(folder)
    if runs and manifest.hash != runs[0].config.data_hash:
        raise DataError(
            f"{folder}: hash {manifest.hash[:12]}, {runs[0].label} was trained on {runs[0].config.data_hash[:12]}; "
            "name the same data set with --data or --on"
        )
    return folder, manifest


def _carry_out(
    arguments: argparse.Namespace,
    sources: Sequence[ModelReference],
    about: Sequence[dict[str, str]],
    folder: Path,
    manifest: Manifest,
    target: Path,
) -> dict[str, Any]:
    """Evaluate under a progress bar; write and return the result."""
    import torch

    from bench.machine.environment import environment
    from bench.records.evaluations import DATE, parts_folder, write_evaluation
    from reproduce.evaluation.distributed import device_of
    from reproduce.evaluation.ensemble import EvaluationConfig, enlarged
    from reproduce.evaluation.image_results import read_results
    from reproduce.evaluation.models import EvaluationError

    for source in sources:
        source.check()
    workers = max(1, torch.cuda.device_count()) if arguments.workers is None else arguments.workers
    if workers < 1:
        raise EvaluationError(f"--workers: {workers} is too few; use at least 1")
    threads = max(1, len(os.sched_getaffinity(0)) // workers)
    images = manifest.splits["val"].images
    start = time.perf_counter()
    known = read_results(parts_folder(target))
    left = images - (0 if known is None else len(known.number))
    config = EvaluationConfig(sources, folder, arguments.protocol, threads, parts_folder(target), known)
    validation = _under_progress(config, workers, left)
    seconds = time.perf_counter() - start
    assert validation.predictions is not None
    content = {
        "protocol": arguments.protocol,
        "crops": CROPS[arguments.protocol],
        "models": [source.identity() | known for source, known in zip(sources, about, strict=True)],
        "data": {
            "source": manifest.source,
            "origin": manifest.origin,
            "hash": manifest.hash,
            "classes": len(manifest.classes),
            "images": images,
        },
        "loss": validation.loss,
        "top1": validation.top1,
        "top5": validation.top5,
        "scales": [
            {
                **asdict(single),
                "sides": sides(arguments.protocol, single.resolution),
                "enlarged": asdict(enlarged(folder, arguments.protocol, single)),
            }
            for single in dict.fromkeys(source.single_crop for source in sources)
        ],
        "device": str(device_of(0)),
        "workers": workers,
        "threads": threads,
        "seconds": seconds,
        "images_per_s": left / seconds,
        "date": time.strftime(DATE, time.gmtime()),
        "environment": environment(),
    }
    write_evaluation(target, content, validation.predictions)
    return content


def _under_progress(config: EvaluationConfig, workers: int, images: int) -> Validation:
    """Evaluate under a progress bar; `images` is the number of images that are not known yet."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from reproduce.evaluation.distributed import evaluate_in_workers

    console = Console(stderr=True)
    models = len(config.models)
    what = f"{models} model{'s' * (models > 1)}, {config.protocol}"
    if config.known is not None:
        console.print(f"{what}: {len(config.known.number)} images are done, {images} to do", highlight=False)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as bars:
        task = bars.add_task(what, total=images)
        lines = _Lines(console, what, images)

        def show(done: int) -> None:
            bars.update(task, completed=done)
            lines.update(done)

        return evaluate_in_workers(config, workers=workers, progress=show)


class _Lines:
    """Progress where there is no terminal: a line now and then."""

    EVERY_S = 30.0

    def __init__(self, console: Console, what: str, images: int) -> None:
        self._console, self._what, self._images = console, what, images
        self._began = self._told = time.monotonic()

    def update(self, done: int) -> None:
        now = time.monotonic()
        if self._console.is_terminal or not done or now - self._told < self.EVERY_S:
            return
        left = (now - self._began) / done * (self._images - done)
        self._told = now
        self._console.print(f"{self._what}: {done} of {self._images} images, about {left:.0f} s left", highlight=False)


def _show(content: dict[str, Any], rows: Sequence[TableRow], target: Path) -> None:
    from rich.console import Console
    from rich.table import Table

    data = content["data"]
    comparable = is_imagenet(data["classes"], data["images"])
    table = Table(box=None, pad_edge=False, header_style="bold")
    titles = ["models", "crops", "cost", "top-5 error, %", "compared to base", "top-1 error, %"]
    for title in [*titles, *(["paper's top-5 error, %"] if comparable else [])]:
        table.add_column(title, justify="right", no_wrap=True)
    for row in rows:
        base = (row.models, row.crops) == (1, 1)
        change = "base" if base else "-" if row.compared_to_base is None else f"{row.compared_to_base:+.2f}"
        cells = [str(row.models), str(row.crops), str(row.cost), f"{row.top5_error:.2f}", change]
        paper = [f"{row.paper.top5_error:.2f}" if row.paper else "-"] if comparable else []
        table.add_row(*cells, f"{row.top1_error:.2f}", *paper)
    console = Console()

    def say(text: str) -> None:
        console.print(text, highlight=False, soft_wrap=True)

    names = ", ".join(model["name"] for model in content["models"])
    say(f"{names} on {data['source']} ({data['images']} images, {data['classes']} classes)")
    console.print(table)
    say(f"{content['protocol']}: loss of the averaged probabilities {content['loss']:.4f}")
    for scale in content["scales"]:
        if count := scale["enlarged"]["images"]:
            side = scale["enlarged"]["largest_side"]
            say(f"{count} of {data['images']} images are stored smaller than the {side} px asked for and were enlarged")
    if comparable:
        say("paper: P Table 3, ILSVRC 2014 validation, 50 000 images")
    else:
        say("the paper's Table 3 is not shown beside: it is of ImageNet's 50 000 validation images in 1000 classes")
    say(f"kept: {target}")
