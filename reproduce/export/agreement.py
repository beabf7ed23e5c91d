"""Compares exported files of one network on a whole validation set, each loaded by the program that it is for.

    python -m reproduce.export.agreement googlenet.pt googlenet.onnx googlenet.safetensors --on data/imagenette

A file in torchvision's layout is loaded by torchvision, an ONNX file by onnxruntime, and a safetensors file by
`reproduce.export.loading`. The logits of the first file are the reference.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from reproduce.data.loading.loaders import ValLoader, ValLoaderConfig
from reproduce.errors import UserError
from reproduce.export.description import LOGITS
from reproduce.export.formats import METADATA, beside
from reproduce.export.loading import load
from reproduce.export.onnx_graph import INPUT

Logits = npt.NDArray[np.float32]
BATCH = 64


@dataclass(frozen=True)
class Agreement:
    """How the logits of a file compare with those of the first one, over all validation images."""

    file: Path
    program: str
    """The program that loaded the file."""
    images: int
    top1: float
    """Share of images whose class is the first prediction, from 0 to 1."""
    other_predictions: int
    """Number of images whose first prediction is not that of the first file."""
    largest_difference: float
    """Largest absolute difference of a logit."""

    def __str__(self) -> str:
        return (
            f"{self.file.name} ({self.program}): top-1 {100 * self.top1:.4f} % of {self.images} images, "
            f"{self.other_predictions} other predictions, logits differ by at most {self.largest_difference:.3g}"
        )


@torch.no_grad()
def compare(files: Sequence[Path], data: Path) -> list[Agreement]:
    """Compare exported files of one network on the validation images of a prepared data set.

    Args:
        files: The files; the first is the reference.
        data: The folder of the prepared data set. Images are cropped as the first file's description says.

    Returns:
        One comparison for each file, in their order.

    Raises:
        UserError: A file cannot be loaded by its program.
        DataError: The data set is not prepared.
    """
    loaded = [_load(file) for file in files]
    asked = loaded[0].input
    loader = ValLoader(
        data,
        ValLoaderConfig(batch_size=BATCH, resolution=asked["resolution"], val_crop=asked["crop"], dtype=torch.float32),
    )
    labels: list[npt.NDArray[np.int64]] = []
    computed: list[list[Logits]] = [[] for _ in files]
    for images, batch_labels, _ in loader:
        labels.append(batch_labels.numpy().copy())
        for one, logits in zip(loaded, computed, strict=True):
            logits.append(one.compute(images.contiguous()))
    expected, of_files = np.concatenate(labels), [np.concatenate(batches) for batches in computed]
    first = of_files[0]
    return [
        Agreement(
            file=file,
            program=one.program,
            images=len(expected),
            top1=float((logits.argmax(1) == expected).mean()),
            other_predictions=int((logits.argmax(1) != first.argmax(1)).sum()),
            largest_difference=float(np.abs(logits - first).max()),
        )
        for file, one, logits in zip(files, loaded, of_files, strict=True)
    ]


@dataclass(frozen=True)
class _Loaded:
    """A network in the program that its file is for."""

    program: str
    compute: Callable[[torch.Tensor], Logits]
    """Computes logits [N, classes] from normalised images [N, 3, R, R]."""
    input: Mapping[str, Any]
    """What the file says of its input."""


def _load(file: Path) -> _Loaded:
    if not file.is_file():
        raise UserError(f"{file}: no such file; give files that `deeper export` wrote")
    if file.suffix == ".onnx":
        if find_spec("onnxruntime") is None:
            raise UserError(f"{file}: needs the package onnxruntime; install it with: pip install 'deeper[export]'")
        from onnxruntime import InferenceSession

        session = InferenceSession(str(file))
        description = json.loads(session.get_modelmeta().custom_metadata_map[METADATA])
        return _Loaded(
            "onnxruntime",
            lambda images: np.asarray(session.run([LOGITS], {INPUT: images.numpy()})[0], dtype=np.float32),
            description["input"],
        )
    network, description = load(file)
    if file.suffix == ".safetensors" or description["differs_from_torchvision"]:
        return _Loaded("reproduce.export.loading", lambda images: network(images).main.numpy(), description["input"])
    from torchvision.models import googlenet

    note = beside("torchvision", file)
    assert note is not None
    theirs = googlenet(
        num_classes=len(description["classes"]),
        aux_logits=len(description["outputs"]) > 1,
        transform_input=False,
        init_weights=False,
    )
    theirs.load_state_dict(torch.load(file, weights_only=True))
    theirs.eval()
    return _Loaded("torchvision", lambda images: theirs(images).numpy(), description["input"])


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the comparison; the exit code is 1 if a file predicts another class for any image, and 2 for bad input."""
    parser = argparse.ArgumentParser(prog="python -m reproduce.export.agreement", description=__doc__.splitlines()[0])
    parser.add_argument("file", nargs="+", type=Path, help="Files that `deeper export` wrote of one run.")
    parser.add_argument("--on", required=True, type=Path, metavar="FOLDER", help="The prepared data set.")
    given = parser.parse_args(arguments)
    try:
        found = compare(given.file, given.on)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    print(*found, sep="\n")
    return int(any(one.other_predictions for one in found))


if __name__ == "__main__":
    sys.exit(main())
