"""Implements `deeper predict`, which shows what a trained network makes of single pictures."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.commands.trained.run import TrainedRun, add_run, find_run, load_run
from bench.console.exit_codes import DONE, FAILED
from bench.console.options import Subparsers, add_command, add_json, output_file
from bench.console.output import plain_console, print_result, show, write_output
from reproduce.errors import UserError

if TYPE_CHECKING:
    from reproduce.prediction.predicting import Prediction

EXAMPLES = """examples:
  deeper predict ablation-imagenette:reduced-both:0 golf-ball.jpg
  deeper predict ablation-imagenette:reduced-both:0 pictures/ 'more/*.png' --html pictures.html
  deeper predict 4fc8fd0aa446 golf-ball.jpg --html maps.html --maps 4a     # what each branch of module 4a answers to

Pictures are stored and cropped as the run's validation images. Where the folder of a picture is called like a class,
the page marks that class.
"""


def add_to(subparsers: Subparsers, places: argparse.ArgumentParser) -> None:
    """Add `deeper predict` to the command line."""
    help = "Show the likeliest classes of pictures, by each classifier of a trained network."
    parser = add_command(subparsers, places, "predict", _predict, help, examples=EXAMPLES)
    add_run(parser)
    parser.add_argument("image", nargs="+", metavar="IMAGE", help="An image file, a folder of them, or a pattern.")
    parser.add_argument(
        "--html", type=output_file, metavar="FILE", help="Write a self-contained page to this new file."
    )
    parser.add_argument("--maps", metavar="MODULE", help="Show on the page what the branches of this module answer to.")
    add_json(parser)


def _predict(arguments: argparse.Namespace) -> int:
    if arguments.maps and arguments.html is None:
        raise UserError("--maps: the maps are shown on a page; name its file with --html")
    for option, path in (("--html", arguments.html), ("--output", arguments.output)):
        if path is not None and path.exists():
            raise UserError(f"{option}: {path} exists; name another file, or move this one away")
    found = find_run(arguments)

    from reproduce.data.encoding import UnreadableImageError
    from reproduce.native import DECODER
    from reproduce.prediction.maps import module_of
    from reproduce.prediction.pictures import find_images, validation_pixels
    from reproduce.prediction.predicting import predict

    if not DECODER.implementation().native:
        raise UserError("DEEPER_DECODER: stock cannot decode single pictures; leave the variable unset")
    files = find_images(arguments.image)
    run = load_run(arguments, found)
    if arguments.maps:
        module_of(run.weights.network, arguments.maps)
    recipe = run.description.run.recipe
    pictures, unreadable = {}, {}
    for file in files:
        try:
            pictures[file] = validation_pixels(
                file, run.manifest.options, resolution=recipe.resolution, share=recipe.val_crop
            )
        except UnreadableImageError as error:
            unreadable[file] = str(error)
    predictions = predict(run.weights.network, list(pictures), list(pictures.values())) if pictures else []
    if arguments.html is not None and predictions:
        write_output("--html", arguments.html, _page(arguments.maps, run, predictions))
    content = _as_json(run, predictions, unreadable)
    print_result(arguments, content, lambda: _show(run, predictions, unreadable, arguments.html))
    return FAILED if unreadable else DONE


def _page(maps: str | None, run: TrainedRun, predictions: Sequence[Prediction]) -> str:
    from reproduce.prediction.maps import branch_maps
    from reproduce.prediction.page import render

    pixels = [prediction.pixels for prediction in predictions]
    return render(
        predictions,
        branch_maps(run.weights.network, maps, pixels) if maps else [],
        class_names=run.description.class_names,
        expected=[_expected(run, prediction.path) for prediction in predictions],
        title=run.label,
        summary=run.summary,
        data=run.description.run.data.path,
        module=maps,
    )


def _expected(run: TrainedRun, path: Path) -> int | None:
    """Return the class after which the picture's folder is called, if there is one."""
    for names in (run.description.classes, run.description.class_names):
        if path.absolute().parent.name in names:
            return names.index(path.absolute().parent.name)
    return None


def _as_json(run: TrainedRun, predictions: Sequence[Prediction], unreadable: Mapping[Path, str]) -> dict[str, Any]:
    classes, names = run.description.classes, run.description.class_names
    return {
        "run": run.label,
        "key": run.description.origin.key,
        "images": [
            {
                "image": str(prediction.path),
                **{
                    classifier: [
                        {"class": classes[guess.label], "name": names[guess.label], "probability": guess.probability}
                        for guess in guesses
                    ]
                    for classifier, guesses in prediction.guesses.items()
                },
            }
            for prediction in predictions
        ],
        "unreadable": {str(path): reason for path, reason in unreadable.items()},
    }


def _show(
    run: TrainedRun, predictions: Sequence[Prediction], unreadable: Mapping[Path, str], page: Path | None
) -> None:
    from bench.console.tables import Column, FittedTable

    console, names = plain_console(), run.description.class_names
    show(console, run.summary)
    rows = [
        (
            str(prediction.path) if classifier == "main" else "",
            classifier,
            ", ".join(f"{names[guess.label]} {100 * guess.probability:.1f} %" for guess in guesses),
        )
        for prediction in predictions
        for classifier, guesses in prediction.guesses.items()
    ]
    if rows:
        show(console, FittedTable((Column("image"), Column("classifier"), Column("likeliest", prose=True)), rows))
    for path, reason in unreadable.items():
        show(console, f"{path}: cannot be read: {reason}", style="red")
    if page is not None and predictions:
        show(console, f"page: {page}")
