"""`deeper bench loader`: compares the speed of our loader, which delivers training batches, with that of other loaders.

Measured: images/s and images per CPU-second of random resized crops in the memory of the consumer, seconds to the first
batch, peak memory, and size on disk.

Against: FFCV's own decoders, DALI, SPDL, and torchvision with PIL or `decode_jpeg`, with 0 to 8 worker processes. The
goals apply to photographs of ImageNet's size; small photographs, small crops, and a mixture of sizes and kinds of JPEGs
are compared as well. Entropy decoding alone shows what a decoder can reach at best that reads whole files. Each loader
is also given a file that is cut off: it is told which of them leave images out without a word.

Interleaved: every loader has a process of its own that stays alive. One epoch of each warms up. Then every repetition
measures whole epochs of each loader, one after the other. All decode with the same number of threads.

In these comparisons all files are in the page cache after the first epoch. Two more are made on request, beside what
the disk gives to a process that only reads: epochs before which the files were dropped from memory, and data that are
larger than the memory that a control group leaves for them.

Not shown: the speed of training, in which a loader shares the cores with the network. Images/s are valid for one
machine only; ratios also apply to similar machines.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, model_validator
from rich.console import Console

from bench.machine.filesystems import filesystem
from bench.suites.harness.comparison import Comparison, Goal, Measure, Measurement, interleave
from bench.suites.harness.errors import NotInstalledError, WorkerProcessError
from bench.suites.harness.memory import MEMORY
from bench.suites.harness.reporting import ResultOutput, progress_console, report_comparisons
from bench.suites.loader.entropy import EFFICIENCY, ENTROPY, started_entropy_decoding
from bench.suites.loader.from_disk import DiskWork, compare_first_epochs, compare_with_limit
from bench.suites.loader.implementations import LOADERS, LoaderWorkload
from bench.suites.loader.memory_group import NoControlGroupError
from bench.suites.loader.pictures import Pictures, generated, mixed, mosaics, photographs, with_damage
from bench.suites.loader.worker import DELIVERED, started_loader, whole_epochs
from reproduce.data import DataError
from reproduce.data import folder as folder_source
from reproduce.data.writing import PrepareConfig, prepare
from reproduce.errors import UserError
from reproduce.limits import usable_cores
from reproduce.spec import Config

OURS, FFCV, PIL = "deeper", "FFCV jpeg", "torchvision, PIL"
GOAL = 2.0  # times the images per CPU-second of every other loader that decodes JPEGs
GOAL_SIDE = 224  # pixels
GOAL_PIXELS = 120_000  # photographs of ImageNet's size have at least as many
QUICK = (OURS, FFCV, PIL)
DAMAGED_OF = 8  # images, one of which is damaged
PEERS = (FFCV, "DALI", "SPDL", "torchvision, decode_jpeg", PIL)
MAIN = (OURS, *PEERS)
ALL = tuple(name for name in LOADERS if not name.endswith(" workers"))
FILE, LEFT_OUT = "KiB an image", "left out"
Pixels = Annotated[int, Field(ge=16, le=4096)]


class LoaderOptions(Config):
    """Options of `deeper bench loader`: the pictures, the sides of the crops, and the repetitions.

    Every combination of a set of pictures and a side is a comparison. The first one takes all loaders, and the others
    only the most important ones.
    """

    folder: Path | None = None
    """ImageNet-style folder of photographs, with `train/<class>/*.jpg`. None generates pictures instead."""
    size: tuple[Pixels, Pixels] | None = None
    """Width and height, in pixels, of mosaics that are made of the photographs and read beside them. None makes no
    mosaics."""
    sides: tuple[Pixels, ...] = (224, 64)
    """Sides of the crops, in pixels."""
    images: int = Field(512, ge=2)
    """Number of pictures in each set, at least `batch`."""
    batch: int = Field(32, ge=1)
    """Images in a batch."""
    repetitions: int = Field(3, ge=1)
    """Repetitions that are kept, beside the first one, which is dropped."""
    seconds: float = Field(1.0, gt=0)
    """Shortest duration of a repetition of one loader, in seconds."""
    threads: int = Field(default_factory=usable_cores, ge=1)
    """Decoding threads in an additional comparison at the end; 1 omits it. All other comparisons decode with one
    thread."""
    cold: bool = False
    """Whether to compare loaders in epochs before which their files were dropped from memory, too."""
    memory_limit: int | None = Field(None, ge=16)
    """Memory in MiB that is left for files in another comparison, with data that are larger. None omits it."""

    @model_validator(mode="after")
    def _coherent(self) -> LoaderOptions:
        if self.images < self.batch:
            raise UserError(f"images: {self.images} are fewer than one batch of {self.batch}; use at least as many")
        if self.size is not None and self.folder is None:
            raise UserError("size: mosaics are made of the photographs of a folder, and no folder is given; give one")
        return self


def parse_size(text: str) -> tuple[int, int]:
    """Parse a size such as "500x375", and return its width and height in pixels.

    Raises:
        UserError: The text is not of the form WIDTHxHEIGHT, with two whole numbers.
    """
    width, _, height = text.partition("x")
    if not (width.isdecimal() and height.isdecimal()):
        raise UserError(f"size: {text!r} is not a size; give WIDTHxHEIGHT in pixels, for example 500x375")
    return int(width), int(height)


def main(options: LoaderOptions, *, output: ResultOutput) -> int:
    """Compare our loader with other loaders, and print and write the result.

    Loaders whose packages are not installed are left out and named in the result.

    Args:
        options: The pictures, the sides of the crops, and the repetitions.
        output: Where the result goes beside the terminal.

    Returns:
        The exit code: 0 if every goal that applies is reached, 1 otherwise. Goals apply to crops of 224 pixels and one
        decoding thread, if a picture has at least 120,000 pixels on average: `GOAL` times the images per CPU-second of
        each of `PEERS` that is installed.

    Raises:
        UserError: Reading from a disk is to be measured, and the folder for temporary files is in memory.
        DataError: `options.folder` has no `train/`, or fewer RGB JPEGs in it than `options.images`.
        WorkerProcessError: The process of a loader ended before it replied, for example because a batch was wrong.
    """
    console = progress_console()
    if (options.cold or options.memory_limit) and filesystem(place := Path(tempfile.gettempdir())).in_memory:
        name = "cold" if options.cold else "memory_limit"
        raise UserError(f"{name}: files in {place} are in memory; set TMPDIR to a folder on the disk to measure")
    with tempfile.TemporaryDirectory(prefix="deeper-loader-") as scratch:
        sets = _prepare_pictures(options, Path(scratch), console)
        main_set, main_side = sets[0], options.sides[0]
        comparisons = [
            _compare(pictures, side, ALL if (pictures, side) == (main_set, main_side) else MAIN, options, 1, console)
            for pictures in sets
            for side in options.sides
        ]
        if options.threads > 1:
            names = (*MAIN, *(name for name in LOADERS if name.endswith(" workers")))
            comparisons.append(_compare(main_set, main_side, names, options, options.threads, console))
        from_disk, left_out = _from_disk(main_set, options, Path(scratch), console)
        fates = _fates(main_set, Path(scratch), console)
    setting: dict[str, Any] = {
        f"one of {DAMAGED_OF} files is cut off": fates,
        "pictures": {pictures.name: pictures.description for pictures in sets},
        "images": options.images,
        "batch": options.batch,
        "round, s": options.seconds,
        MEMORY: "PSS of anonymous and shared pages of all processes of a loader, in its first epoch",
    }
    if left_out:
        setting[LEFT_OUT] = left_out
    return report_comparisons("loader", [*comparisons, *from_disk], setting=setting, output=output)


def quick(console: Console) -> list[Comparison]:
    """Return the comparison that has goals, measured on generated pictures in two repetitions.

    It takes about half a minute on 2 cores. Progress is printed to `console`. Nothing is written.
    """
    options = LoaderOptions(images=256, repetitions=2)
    with tempfile.TemporaryDirectory(prefix="deeper-loader-") as scratch:
        (pictures,) = _prepare_pictures(options, Path(scratch), console)
        return [_compare(pictures, GOAL_SIDE, QUICK, options, 1, console)]


def _prepare_pictures(options: LoaderOptions, scratch: Path, console: Console) -> list[Pictures]:
    """Make the sets of pictures in `scratch`. The first one is read at more settings than the others."""
    console.print("preparing pictures ...", highlight=False)
    if options.folder is None:
        return [generated(scratch / "generated", images=options.images)]
    originals = photographs(options.folder, scratch / "photographs", images=options.images)
    if options.size is None:
        return [originals]
    return [
        mosaics(originals, scratch / "mosaics", options.size),
        originals,
        mixed(originals, scratch / "mixed"),
    ]


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
                    started_loader(name, workload, partial(whole_epochs, seconds=options.seconds))
                )
            except NotInstalledError as error:
                absent[name] = str(error)
            else:
                once[name] = {**start_up, FILE: pictures.kib_per_image(input_format)}
        if threads == 1:
            files = pictures.source("folder")
            running[ENTROPY] = processes.enter_context(started_entropy_decoding(files, seconds=options.seconds))
        repetitions = interleave(running, repetitions=options.repetitions, console=console)
    has_goals = side == GOAL_SIDE and pictures.pixels >= GOAL_PIXELS and threads == 1
    peers = [name for name in PEERS if name in running]
    goals = [Goal(metric=EFFICIENCY, ours=OURS, baseline=peer, at_least=GOAL) for peer in peers]
    return Comparison(
        name=f"{pictures.name}-{side}" + (f"-{threads}-threads" if threads > 1 else ""),
        title=title,
        repetitions=repetitions,
        once=once,
        absent=absent,
        goals=tuple(goals) if has_goals else (),
    )


def _from_disk(
    pictures: Pictures, options: LoaderOptions, scratch: Path, console: Console
) -> tuple[list[Comparison], str]:
    """Make the comparisons of loaders that read from the disk, those that are asked for.

    Returns:
        The comparisons, and a sentence that says which one was left out and why; empty if none was.
    """
    work = DiskWork(
        names=MAIN,
        scratch=scratch,
        side=options.sides[0],
        batch=options.batch,
        threads=options.threads,
        repetitions=options.repetitions,
    )
    comparisons = [compare_first_epochs(pictures, work, console)] if options.cold else []
    if options.memory_limit is None:
        return comparisons, ""
    try:
        work = replace(work, names=(OURS,))  # others free memory within an epoch, which then holds more of the files
        return [*comparisons, compare_with_limit(pictures, work, options.memory_limit, console)], ""
    except NoControlGroupError as error:
        left_out = f"data larger than memory were left out, because no control group can be made here: {error}"
        console.print(left_out, highlight=False, soft_wrap=True)
        return comparisons, left_out


def _fates(pictures: Pictures, scratch: Path, console: Console) -> dict[str, str]:
    """Give each loader a few files, one of which is cut off in the middle, and tell what it makes of them."""
    console.print("one of the files is damaged ...", highlight=False)
    folder = with_damage(pictures, scratch / "damaged", images=DAMAGED_OF)
    try:
        prepare(folder_source(folder), scratch / "damaged-prepared", PrepareConfig())
        refusal = "does not notice it when the data are prepared"
    except DataError:
        refusal = "refuses it by name when the data are prepared"
    fates: dict[str, str] = {}
    for name in MAIN:
        if LOADERS[name].input_format != "folder":
            fates[name] = refusal
            continue
        workload = LoaderWorkload(source=folder, side=GOAL_SIDE, batch=1, threads=1)
        try:
            with started_loader(name, workload, partial(whole_epochs, seconds=0.0)) as (_, first):
                fates[name] = f"delivers {first[DELIVERED]:.0f} of {DAMAGED_OF} images"
        except NotInstalledError:
            pass
        except WorkerProcessError:
            fates[name] = "ends with an error"
    return fates
