"""`deeper bench loader`: how fast our loader delivers training batches, beside what a user would take instead.

Measured: images/s and images per CPU-second of random resized crops in the memory of the consumer, seconds to the first
batch, peak memory, and size on disk.

Against: FFCV's own decoders, DALI and torchvision with PIL or `decode_jpeg`. The goals are for photographs of
ImageNet's size; small photographs and small crops are compared as well.

Interleaved: every loader is a process of its own that stays alive. One epoch of each warms up, then each is measured
for whole epochs in every repetition, one after the other. All decode with the same number of threads.

Not shown: how fast training is, in which a loader shares the cores with the network; and how fast a disk is, because
after the first epoch all files are in the page cache. Images/s hold for one machine only; ratios carry further.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import psutil
from pydantic import Field, model_validator
from rich.console import Console

from bench.suites.harness.comparison import Comparison, Goal, Measure, Measurement, interleave
from bench.suites.harness.errors import NotInstalledError
from bench.suites.harness.memory import MEMORY
from bench.suites.harness.reporting import ResultOutput, progress_console, report_comparisons
from bench.suites.loader.implementations import LOADERS, LoaderWorkload
from bench.suites.loader.pictures import Pictures, generated, mosaics, photographs
from bench.suites.loader.worker import EFFICIENCY, started_loader
from reproduce.errors import UserError
from reproduce.spec import Config

OURS, FFCV, PIL = "deeper", "FFCV jpeg", "torchvision, PIL"
GOALS = ((FFCV, 1.7), (PIL, 3.5))
GOAL_SIDE = 224  # pixels
GOAL_PIXELS = 120_000  # photographs of ImageNet's size have at least as many
QUICK = (OURS, FFCV, PIL)
MAIN = (OURS, FFCV, "DALI", "torchvision, decode_jpeg", PIL)
ALL = tuple(LOADERS)
FILE = "KiB an image"
Pixels = Annotated[int, Field(ge=16, le=4096)]


class LoaderOptions(Config):
    """What is compared."""

    folder: Path | None = None
    """ImageNet-style folder of photographs. None generates pictures."""
    size: tuple[Pixels, Pixels] | None = None
    """Width and height in pixels. Compares on mosaics of the photographs in this size as well."""
    sides: tuple[Pixels, ...] = (224, 64)
    """Sides of the crops in pixels, one comparison for each."""
    images: int = Field(512, ge=2)
    """Photographs that are read in an epoch."""
    batch: int = Field(32, ge=1)
    """Images in a batch."""
    repetitions: int = Field(3, ge=1)
    seconds: float = Field(1.0, gt=0)
    """How long a repetition of one loader takes at least."""
    threads: int = Field(psutil.cpu_count(logical=False) or 1, ge=1)
    """Decoding threads of the last comparison. All other comparisons decode with one thread."""

    @model_validator(mode="after")
    def _coherent(self) -> LoaderOptions:
        if self.images < self.batch:
            raise UserError(f"images: {self.images} are fewer than one batch of {self.batch}; use at least as many")
        if self.size is not None and self.folder is None:
            raise UserError("size: mosaics are made of the photographs of a folder, and no folder is given; give one")
        return self


def parse_size(text: str) -> tuple[int, int]:
    """Returns the width and height of a text such as "500x375". Raises `UserError`."""
    width, _, height = text.partition("x")
    if not (width.isdecimal() and height.isdecimal()):
        raise UserError(f"size: {text!r} is not a size; give WIDTHxHEIGHT in pixels, for example 500x375")
    return int(width), int(height)


def main(options: LoaderOptions, *, output: ResultOutput) -> int:
    """Runs the benchmark and reports it.

    Returns:
        0 if every goal is reached, 1 otherwise.

    Raises:
        DataError: The folder does not hold what `options` ask for.
    """
    console = progress_console()
    with tempfile.TemporaryDirectory(prefix="deeper-loader-") as scratch:
        sets = _prepare_pictures(options, Path(scratch), console)
        main_set, main_side = sets[0], options.sides[0]
        comparisons = [
            _compare(pictures, side, ALL if (pictures, side) == (main_set, main_side) else MAIN, options, 1, console)
            for pictures in sets
            for side in options.sides
        ]
        if options.threads > 1:
            comparisons.append(_compare(main_set, main_side, MAIN, options, options.threads, console))
    setting = {
        "pictures": {pictures.name: pictures.description for pictures in sets},
        "images": options.images,
        "batch": options.batch,
        "round, s": options.seconds,
        MEMORY: "PSS of anonymous and shared pages of all processes of a loader, in its first epoch",
    }
    return report_comparisons("loader", comparisons, setting=setting, output=output)


def quick(console: Console) -> list[Comparison]:
    """Runs the comparison that has the goals on generated pictures in two repetitions, which takes half a minute."""
    options = LoaderOptions(images=256, repetitions=2)
    with tempfile.TemporaryDirectory(prefix="deeper-loader-") as scratch:
        (pictures,) = _prepare_pictures(options, Path(scratch), console)
        return [_compare(pictures, GOAL_SIDE, QUICK, options, 1, console)]


def _prepare_pictures(options: LoaderOptions, scratch: Path, console: Console) -> list[Pictures]:
    """Returns the sets of pictures. The goals are for the first one."""
    console.print("preparing pictures ...", highlight=False)
    if options.folder is None:
        return [generated(scratch / "generated", images=options.images)]
    originals = photographs(options.folder, scratch / "photographs", images=options.images)
    if options.size is None:
        return [originals]
    return [mosaics(originals, scratch / "mosaics", options.size), originals]


def _compare(
    pictures: Pictures, side: int, names: Sequence[str], options: LoaderOptions, threads: int, console: Console
) -> Comparison:
    title = f"{pictures.description}, to {side}, {threads} decoding thread{'s' if threads > 1 else ''}"
    console.print(f"{title} ...", highlight=False)
    running: dict[str, Measure] = {}
    once: dict[str, Measurement] = {}
    absent: dict[str, str] = {}
    with ExitStack() as processes:
        for name in names:
            input_format = LOADERS[name].input_format
            workload = LoaderWorkload(
                source=pictures.source(input_format), side=side, batch=options.batch, threads=threads
            )
            try:
                running[name], start_up = processes.enter_context(
                    started_loader(name, workload, seconds=options.seconds)
                )
            except NotInstalledError as error:
                absent[name] = str(error)
            else:
                once[name] = {**start_up, FILE: pictures.kib_per_image(input_format)}
        repetitions = interleave(running, repetitions=options.repetitions, console=console)
    has_goals = side == GOAL_SIDE and pictures.pixels >= GOAL_PIXELS and threads == 1
    goals = [Goal(metric=EFFICIENCY, ours=OURS, baseline=baseline, at_least=ratio) for baseline, ratio in GOALS]
    return Comparison(
        name=f"{pictures.name}-{side}" + (f"-{threads}-threads" if threads > 1 else ""),
        title=title,
        repetitions=repetitions,
        once=once,
        absent=absent,
        goals=tuple(goals) if has_goals else (),
    )
