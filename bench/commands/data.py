"""Implements `deeper data prepare` and `deeper data verify`, which write and check prepared data sets."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.console.exit_codes import DONE
from bench.console.options import Subparsers, add_command, add_json, any_path, output_folder, whole_number
from bench.console.output import plain_console, print_result, show

if TYPE_CHECKING:
    from reproduce.data import PrepareOptions, Source

EXAMPLES = """examples:
  deeper data prepare fashion-mnist --output data/fashion-mnist
  deeper data verify data/fashion-mnist
"""

PREPARE_EXAMPLES = """examples:
  deeper data prepare imagenette:imagenette2-320.tgz --output data/imagenette
  deeper data prepare fashion-mnist --output data/fashion-mnist
  deeper data prepare imagenet:/datasets/ilsvrc2012 --output data/imagenet --max-resolution 512
  deeper data prepare imagenet:/datasets/ilsvrc2012,classes=100 --output data/imagenet-100 --max-resolution 256
  deeper data prepare synthetic --output data/synthetic
"""

VERIFY_EXAMPLES = """examples:
  deeper data verify data/imagenette
  deeper data verify data/imagenette --json
"""


def add_to(subparsers: Subparsers, places: argparse.ArgumentParser) -> None:
    """Add `deeper data` and its actions to the command line."""
    help = "Write a data set as FFCV files, or verify one."
    parser = subparsers.add_parser(
        "data", help=help, description=help, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    _add_prepare(actions)
    verify = add_command(
        *(actions, None, "verify", _verify, "Compare every byte of prepared files with their manifest."),
        examples=VERIFY_EXAMPLES,
    )
    verify.add_argument("folder", type=any_path, help="The folder of the prepared files.")
    add_json(verify)


def _add_prepare(actions: Subparsers) -> None:
    prepare = add_command(
        *(actions, None, "prepare", _prepare, "Write images as FFCV files."),
        description="Write train.beton, val.beton and manifest.json. If it is interrupted, the same command resumes.",
        examples=PREPARE_EXAMPLES,
    )
    prepare.add_argument(
        "source",
        help="A folder or a tar with train/<class>/* and val/<class>/*; imagenette[:PATH]; fashion-mnist[:PATH]; "
        "imagenet:FOLDER[,classes=N or FILE][,checksums=off] with the three official archives; "
        "synthetic[:classes=10,images=2000,size=64,seed=0].",
    )
    prepare.add_argument(
        "--output", type=output_folder, required=True, metavar="FOLDER", help="Write the prepared files to this folder."
    )
    prepare.add_argument(
        "--workers", type=whole_number(1), metavar="N", help="The number of processes. Default: one a core."
    )
    prepare.add_argument(
        "--max-resolution",
        type=whole_number(1),
        metavar="PIXELS",
        help="Shrink images whose shorter side is larger than this.",
    )
    prepare.add_argument("--write-mode", choices=("auto", "jpg", "raw", "proportion"), help="How images are stored.")
    prepare.add_argument(
        "--jpeg-quality", type=whole_number(1, 100), metavar="1..100", help="The quality of images encoded again."
    )
    prepare.add_argument("--skip-bad", action="store_true", help="Leave out unreadable images, and count them.")
    prepare.add_argument("--force", action="store_true", help="Replace other files in the folder.")


def _prepare(arguments: argparse.Namespace) -> int:
    from reproduce.data import PrepareOptions, source_from
    from reproduce.spec import validated

    given = {
        name: getattr(arguments, name)
        for name in ("max_resolution", "write_mode", "jpeg_quality")
        if getattr(arguments, name) is not None
    }
    prepare_with_progress(
        source_from(arguments.source),
        arguments.output,
        validated(PrepareOptions, given, where="deeper data prepare: "),
        workers=arguments.workers,
        skip_bad=arguments.skip_bad,
        force=arguments.force,
    )
    return DONE


def prepare_with_progress(
    source: Source,
    folder: Path,
    options: PrepareOptions,
    *,
    workers: int | None = None,
    skip_bad: bool = False,
    force: bool = False,
) -> None:
    """Prepare a data set with a progress bar, and print the size of the written files and what was passed over.

    If the folder already holds the finished data set, nothing is written.

    Args:
        source: The source of the images.
        folder: The folder of the prepared files, which is created if necessary.
        options: The format in which images are stored.
        workers: The number of processes. None means one for each core.
        skip_bad: Whether unreadable images are left out. Otherwise they are an error.
        force: Whether another data set in the folder is replaced. Otherwise it is an error.

    Raises:
        DataError: The data set cannot be prepared; `reproduce.data.writing.prepare` lists the causes.
    """
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from reproduce.data.writing import PrepareConfig, prepare

    console = plain_console()
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as bars:
        tasks: dict[str, Any] = {}

        def progress(split: str, done: int, total: int) -> None:
            if split not in tasks:
                tasks[split] = bars.add_task(f"{folder.name}: {split}", total=total)
            bars.update(tasks[split], completed=done, total=total)

        config = PrepareConfig(options=options, workers=workers, skip_bad=skip_bad, force=force)
        manifest = prepare(source, folder, config, progress=progress)
    if manifest.numbers_as_text:
        first = ", ".join(manifest.classes[:4])
        show(
            console,
            f"{folder}: the classes are numbered in the order of text ({first}, ...), not by their names; folders with "
            "leading zeros (000, 001, ...) have the same order in both",
        )
    for name, split in manifest.splits.items():
        marked = f", {split.marked} JPEGs with restart markers" if split.marked else ""
        skipped = f", {split.skipped} unreadable left out" if split.skipped else ""
        size = f"{split.images} images, {split.bytes / 2**20:.0f} MiB"
        show(console, f"{folder / name}.beton: {size}{marked}{skipped}")
    for note in manifest.notes:
        show(console, f"{folder}: {note}")


def _verify(arguments: argparse.Namespace) -> int:
    from reproduce.data import verify

    manifest = verify(arguments.folder)
    content = {
        "folder": str(arguments.folder),
        "classes": len(manifest.classes),
        "images": {name: split.images for name, split in manifest.splits.items()},
        "hash": manifest.hash,
    }
    sentence = f"{arguments.folder}: matches its manifest; {len(manifest.classes)} classes, hash {manifest.hash}"
    print_result(arguments, content, lambda: show(plain_console(), sentence))
    return DONE
