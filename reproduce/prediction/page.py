"""Renders predictions, and the maps of a module, as one self-contained page in HTML."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import Any

import jinja2
import numpy as np
import numpy.typing as npt
from PIL import Image

from reproduce.prediction.maps import BranchMaps
from reproduce.prediction.predicting import MAIN, Prediction

CLASSIFIERS = {MAIN: "main classifier", "aux1": "auxiliary, after 4a", "aux2": "auxiliary, after 4d"}


def render(
    predictions: Sequence[Prediction],
    maps: Sequence[Sequence[BranchMaps]],
    *,
    class_names: Sequence[str],
    expected: Sequence[int | None],
    title: str,
    summary: str,
    data: str,
    module: str | None,
) -> str:
    """Render a page that holds its pictures and needs no other file.

    Args:
        predictions: The predictions of N pictures.
        maps: The maps of each picture; empty without `module`.
        class_names: Names of the classes, by number.
        expected: The class that each picture is known to show; None if it is not known.
        title: Name of the run.
        summary: One line on the run.
        data: The name of the data set whose classes they are.
        module: Name of the module whose maps are shown; None for none.
    """
    templates = jinja2.Environment(
        loader=jinja2.PackageLoader("reproduce.prediction"), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    pictures = [
        {
            "name": str(prediction.path),
            "expected": None if label is None else class_names[label],
            "image": _data_uri(Image.fromarray(prediction.pixels)),
            "guesses": [
                (
                    CLASSIFIERS[name],
                    [
                        {
                            "name": class_names[guess.label],
                            "probability": guess.probability,
                            "right": guess.label == label,
                        }
                        for guess in guesses
                    ],
                )
                for name, guesses in prediction.guesses.items()
            ],
            "branches": [_branch(branch) for branch in (maps[number] if module else ())],
        }
        for number, (prediction, label) in enumerate(zip(predictions, expected, strict=True))
    ]
    side = predictions[0].pixels.shape[0]
    return templates.get_template("page.html.j2").render(
        title=title, summary=summary, data=data, side=side, module=module, pictures=pictures
    )


def _branch(branch: BranchMaps) -> dict[str, Any]:
    largest = float(branch.maps.max(initial=0.0))
    shown = [{"image": _map_uri(branch.mean, float(branch.mean.max())), "caption": "mean"}]
    shown += [
        {"image": _map_uri(values, largest), "caption": f"channel {channel}"}
        for channel, values in zip(branch.strongest, branch.maps, strict=True)
    ]
    return {"name": branch.branch, "channels": branch.channels, "maps": shown}


def _map_uri(values: npt.NDArray[np.float32], largest: float) -> str:
    """Return an image of a map in the colours `inferno`, whose lowest stands for 0 and whose highest for `largest`."""
    import matplotlib

    levels = (255 * np.clip(values / (largest or 1.0), 0, 1)).astype(np.uint8)
    image = Image.fromarray(levels).convert("P")
    colours = matplotlib.colormaps["inferno"](np.arange(256), bytes=True)[:, :3]
    image.putpalette(colours.tobytes())
    return _data_uri(image)


def _data_uri(image: Image.Image) -> str:
    file = io.BytesIO()
    image.save(file, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
