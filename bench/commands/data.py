"""`deeper data prepare` and `deeper data verify`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from reproduce.data import PrepareOptions, Source, source_from
from reproduce.spec import validated

EXAMPLES = """examples:
  deeper data prepare imagenette:imagenette2-320.tgz --out data/imagenette
  deeper data prepare fashion-mnist --out data/fashion-mnist
  deeper data prepare /datasets/imagenet --out data/imagenet --max-resolution 512
  deeper data prepare synthetic --out data/synthetic
"""


def add_to(verbs: Any, places: argparse.ArgumentParser) -> None:
    parser = verbs.add_parser("data", help="write a data set as FFCV files, or verify one")
    actions = parser.add_subparsers(metavar="ACTION", required=True)

    prepare = actions.add_parser(
        "prepare",
        help="images to FFCV files",
        description="Write train.beton, val.beton and manifest.json. Interrupted, type the same again.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    prepare.add_argument(
        "source",
        help="a folder or a tar with train/<class>/* and val/<class>/*; imagenette[:PATH]; fashion-mnist[:PATH]; "
        "synthetic[:classes=10,images=2000,size=64,seed=0]",
    )
    prepare.add_argument("--out", type=Path, required=True, help="folder of the prepared files")
    prepare.add_argument("--workers", type=int, help="processes (all cores)")
    prepare.add_argument("--max-resolution", type=int, help="shrink images whose shorter side is above this")
    prepare.add_argument("--write-mode", choices=("auto", "jpg", "raw", "proportion"), help="how images are stored")
    prepare.add_argument("--jpeg-quality", type=int, help="of images that are encoded anew")
    prepare.add_argument("--skip-bad", action="store_true", help="leave unreadable images out, and count them")
    prepare.add_argument("--force", action="store_true", help="replace other files in --out")
    prepare.set_defaults(call=_prepare)

    verify = actions.add_parser("verify", help="check prepared files against their manifest, every byte")
    verify.add_argument("folder", type=Path)
    verify.set_defaults(call=_verify)


def _prepare(arguments: argparse.Namespace) -> int:

    given = {
        name: getattr(arguments, name)
        for name in ("max_resolution", "write_mode", "jpeg_quality")
        if getattr(arguments, name) is not None
    }
    prepare_with_progress(
        source_from(arguments.source),
        arguments.out,
        validated(PrepareOptions, given, where="deeper data prepare: "),
        workers=arguments.workers,
        skip_bad=arguments.skip_bad,
        force=arguments.force,
    )
    return 0


def prepare_with_progress(
    source: Source,
    out: Path,
    options: PrepareOptions,
    *,
    workers: int | None = None,
    skip_bad: bool = False,
    force: bool = False,
) -> None:
    """Prepare a data set under a progress bar, then say what was written."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from reproduce.data.writing import PrepareConfig, prepare

    console = Console()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as bars:
        tasks: dict[str, Any] = {}

        def progress(split: str, done: int, total: int) -> None:
            if split not in tasks:
                tasks[split] = bars.add_task(f"{out.name}: {split}", total=total)
            bars.update(tasks[split], completed=done, total=total)

        config = PrepareConfig(options=options, workers=workers, skip_bad=skip_bad, force=force)
        manifest = prepare(source, out, config, progress=progress)
    for name, split in manifest.splits.items():
        marked = f", {split.marked} JPEGs with restart markers" if split.marked else ""
        skipped = f", {split.skipped} unreadable left out" if split.skipped else ""
        console.print(f"{out / name}.beton: {split.images} images, {split.bytes / 2**20:.0f} MiB{marked}{skipped}")


def _verify(arguments: argparse.Namespace) -> int:
    from reproduce.data import verify

    manifest = verify(arguments.folder)
    print(f"{arguments.folder}: as its manifest says, {len(manifest.classes)} classes, hash {manifest.hash}")
    return 0
