"""`deeper bench loader`: our loader beside what a user would pick instead, in images/s and per CPU-second.

Photographs of ImageNet's size are the task that matters; small ones and small outputs are compared, too. Every
contestant is a process of its own (`bench.suites.loaders`), decodes with the same number of threads and delivers the
same batches.
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

from bench.suites.harness.comparison import Comparison, Contestant, Figures, Goal, interleave, publish
from bench.suites.harness.memory import MEMORY
from bench.suites.loader.implementations import CONTESTANTS, AbsentError, Task
from bench.suites.loader.pictures import Pictures, generated, mosaics, photographs
from bench.suites.loader.process import EFFICIENCY, started
from reproduce.spec import Config, SpecError

OURS, FFCV, PIL = "deeper", "FFCV jpeg", "torchvision, PIL"
GOALS = ((FFCV, 1.7), (PIL, 3.5))
GOAL_SIDE, GOAL_PIXELS = 224, 120_000  # "photographs of ImageNet size" have at least so many pixels
QUICK = (OURS, FFCV, PIL)
MAIN = (OURS, FFCV, "DALI", "torchvision, decode_jpeg", PIL)
ALL = tuple(CONTESTANTS)
FILE = "KiB an image"
Pixels = Annotated[int, Field(ge=16, le=4096)]


class LoaderOptions(Config):
    """What is compared."""

    folder: Path | None = None
    """ImageNet-style folder of photographs; None: generated pictures."""
    size: tuple[Pixels, Pixels] | None = None
    """Width and height: compare on mosaics of the folder's photographs of this size, too."""
    sides: tuple[Pixels, ...] = (224, 64)
    """Of the crops that are delivered."""
    images: int = Field(512, ge=2)
    batch: int = Field(32, ge=1)
    rounds: int = Field(3, ge=1)
    seconds: float = Field(1.0, gt=0)
    """A round's least length."""
    threads: int = Field(psutil.cpu_count(logical=False) or 1, ge=1)
    """Of a last comparison, for images/s; all others decode with one thread, for images per CPU-second."""

    @model_validator(mode="after")
    def _coherent(self) -> LoaderOptions:
        if self.images < self.batch:
            raise ValueError(f"images: {self.images} are fewer than one batch of {self.batch}; use at least as many")
        if self.size is not None and self.folder is None:
            raise ValueError("size: is of mosaics of a folder's photographs, and none is named; name one")
        return self


def size_from(text: str) -> tuple[int, int]:
    """Width and height of "500x375". Raises `SpecError`."""
    width, _, height = text.partition("x")
    if not (width.isdecimal() and height.isdecimal()):
        raise SpecError(f"size: {text!r} is no size; give WIDTHxHEIGHT in pixels, for example 500x375")
    return int(width), int(height)


def main(options: LoaderOptions, *, output: Path | None) -> int:
    """Run the benchmark and print its tables; 0 where each goal is reached, else 1. Raises `DataError`."""
    console = Console()
    with tempfile.TemporaryDirectory(prefix="deeper-loader-") as scratch:
        sets = _pictures(options, Path(scratch), console)
        first, side = sets[0], options.sides[0]
        comparisons = [
            _compare(pictures, side_, ALL if (pictures, side_) == (first, side) else MAIN, options, 1, console)
            for pictures in sets
            for side_ in options.sides
        ]
        if options.threads > 1:
            comparisons.append(_compare(first, side, MAIN, options, options.threads, console))
    setting = {
        "pictures": {pictures.name: pictures.description for pictures in sets},
        "images": options.images,
        "batch": options.batch,
        "round, s": options.seconds,
        MEMORY: "PSS of anonymous and shared pages of all of a contestant's processes, in its first epoch",
    }
    return publish("loader", comparisons, setting=setting, output=output)


def quick(console: Console) -> list[Comparison]:
    """The comparison that has the goals, on generated pictures in two rounds: half a minute."""
    options = LoaderOptions(images=256, rounds=2)
    with tempfile.TemporaryDirectory(prefix="deeper-loader-") as scratch:
        (pictures,) = _pictures(options, Path(scratch), console)
        return [_compare(pictures, GOAL_SIDE, QUICK, options, 1, console)]


def _pictures(options: LoaderOptions, scratch: Path, console: Console) -> list[Pictures]:
    """The set that counts first."""
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
    running: dict[str, Contestant] = {}
    once: dict[str, Figures] = {}
    absent: dict[str, str] = {}
    with ExitStack() as processes:
        for name in names:
            form = CONTESTANTS[name].form
            task = Task(source=pictures.source(form), side=side, batch=options.batch, threads=threads)
            try:
                running[name], first = processes.enter_context(started(name, task, seconds=options.seconds))
            except AbsentError as error:
                absent[name] = str(error)
            else:
                once[name] = {**first, FILE: pictures.kib(form)}
        rounds = interleave(running, rounds=options.rounds, console=console)
    goals = [Goal(figure=EFFICIENCY, ours=OURS, peer=peer, at_least=ratio) for peer, ratio in GOALS]
    counts = side == GOAL_SIDE and pictures.pixels >= GOAL_PIXELS and threads == 1
    return Comparison(
        name=f"{pictures.name}-{side}" + (f"-{threads}-threads" if threads > 1 else ""),
        title=title,
        rounds=rounds,
        once=once,
        absent=absent,
        goals=tuple(goals) if counts else (),
    )
