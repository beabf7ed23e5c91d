"""Runs an evaluation with a progress bar and writes its record."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from bench.console.formats import format_duration
from bench.console.output import plain_console, show
from bench.machine.environment import environment
from bench.records.evaluations import DATE, parts_folder, write_evaluation
from reproduce.evaluation.distributed import device_of, evaluate_in_workers
from reproduce.evaluation.ensemble import EvaluationConfig, enlarged
from reproduce.evaluation.image_results import read_results
from reproduce.evaluation.models import EvaluationError
from reproduce.evaluation.protocols import CROPS, sides
from reproduce.limits import usable_cpus

if TYPE_CHECKING:
    from reproduce.data import Manifest
    from reproduce.evaluation.models import ModelReference


def run_evaluation(
    sources: Sequence[ModelReference],
    descriptions: Sequence[Mapping[str, str]],
    data: Path,
    manifest: Manifest,
    target: Path,
    *,
    protocol: Any,
    workers: int | None,
) -> dict[str, Any]:
    """Evaluate models together on a validation set and write the evaluation, with a progress bar on standard error.

    Images that an interrupted evaluation in `target` has finished are not evaluated again. With one worker, the
    evaluation runs in this process.

    Args:
        sources: The models, whose probabilities are averaged.
        descriptions: For each model, a mapping with its `name`, `experiment` and `arm`.
        data: The folder of the prepared data set.
        manifest: The manifest of the data set.
        target: The folder of the evaluation, to which `evaluation.json` and the predictions are written.
        protocol: The name of the protocol, a key of `CROPS`.
        workers: The number of processes. None means one for each GPU, or one process on a machine without GPUs.

    Returns:
        The content of `evaluation.json`.

    Raises:
        EvaluationError: A model cannot be evaluated, or `workers` is less than 1.
        UserError: An image cannot be read, or another mistake in the input appears during the evaluation.
        ProcessException: A worker process failed for another reason.
    """
    for source in sources:
        source.check()
    workers = max(1, torch.cuda.device_count()) if workers is None else workers
    if workers < 1:
        raise EvaluationError(f"--workers: {workers} is too few; use at least 1")
    threads = max(1, usable_cpus() // workers)
    images = manifest.splits["val"].images
    start = time.perf_counter()
    finished = read_results(parts_folder(target))
    left = images - (0 if finished is None else len(finished.number))
    console = plain_console(stderr=True)
    title = f"{len(sources)} model{'s' * (len(sources) > 1)}, {protocol}"
    if finished is not None:
        show(console, f"{title}: {len(finished.number)} images are done, {left} to do")
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as bars:
        task = bars.add_task(title, total=left)
        lines = _ProgressLines(console, title, left)

        def report_progress(done: int) -> None:
            bars.update(task, completed=done)
            lines.update(done)

        config = EvaluationConfig(sources, data, protocol, threads, parts_folder(target), finished)
        validation = evaluate_in_workers(config, workers=workers, progress=report_progress)
    seconds = time.perf_counter() - start
    assert validation.predictions is not None
    content = {
        "protocol": protocol,
        "crops": CROPS[protocol],
        "models": [source.identity() | dict(known) for source, known in zip(sources, descriptions, strict=True)],
        "data": {
            "source": manifest.source,
            "origin": manifest.origin,
            "hash": manifest.hash,
            "classes": len(manifest.classes),
            "by_wordnet_id": manifest.by_wordnet_id,
            "images": images,
        },
        "loss": validation.loss,
        "top1": validation.top1,
        "top5": validation.top5,
        "scales": [
            {
                **asdict(single),
                "sides": sides(protocol, single.resolution),
                "enlarged": asdict(enlarged(data, protocol, single)),
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


class _ProgressLines:
    """Prints a line of progress at most every 30 seconds if the console is a pipe or a file."""

    INTERVAL_S = 30.0

    def __init__(self, console: Console, title: str, images: int) -> None:
        self._console, self._title, self._images = console, title, images
        self._started = self._reported = time.monotonic()

    def update(self, done: int) -> None:
        now = time.monotonic()
        if self._console.is_terminal or not done or now - self._reported < self.INTERVAL_S:
            return
        left = format_duration((now - self._started) / done * (self._images - done))
        self._reported = now
        show(self._console, f"{self._title}: {done} of {self._images} images, about {left} left")
