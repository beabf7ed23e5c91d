"""Predicts the classes of pictures by every classifier of a network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from reproduce.data.encoding import Pixels
from reproduce.data.loading.normalise import Normalise
from reproduce.export.logits import AllLogits
from reproduce.models import GoogLeNet

TOP = 5
BATCH = 16  # pictures in one forward pass
MAIN = "main"


@dataclass(frozen=True)
class Guess:
    """A class that a classifier takes a picture for."""

    label: int
    """Number of the class."""
    probability: float


@dataclass(frozen=True)
class Prediction:
    """What the classifiers of a network make of one picture."""

    path: Path
    pixels: Pixels
    """What the network sees: uint8 [R, R, 3], RGB."""
    guesses: dict[str, tuple[Guess, ...]]
    """The likeliest classes, at most `TOP`, the likeliest first, by classifier: `main`, and `aux1` and `aux2` if the
    network has them."""


def normalised(pixels: Sequence[Pixels]) -> Tensor:
    """Make the input of a network from pictures: float32 [N, 3, R, R] in channels_last, normalised as in validation."""
    images = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2)  # NHWC in memory, as the loaders' images
    normalised: Tensor = Normalise(torch.float32)(images)
    return normalised


@torch.inference_mode()
def logits(network: GoogLeNet, pixels: Sequence[Pixels]) -> dict[str, Tensor]:
    """Compute the logits of pictures in float32, by classifier.

    Args:
        network: The network, in float32 and on the CPU. Its mode changes.
        pixels: N pictures, each uint8 [R, R, 3].

    Returns:
        Logits [N, classes] of `main`, and of `aux1` and `aux2` if the network has them.
    """
    module = AllLogits(network)
    batches = [module(normalised(pixels[start : start + BATCH])) for start in range(0, len(pixels), BATCH)]
    names = (MAIN, *module.names[1:])
    return {name: torch.cat(outputs) for name, outputs in zip(names, zip(*batches, strict=True), strict=True)}


def predict(network: GoogLeNet, paths: Sequence[Path], pixels: Sequence[Pixels]) -> list[Prediction]:
    """Predict the classes of pictures.

    Args:
        network: The network, in float32 and on the CPU. Its mode changes.
        paths: Where the N pictures come from, N at least 1.
        pixels: The pictures, each uint8 [R, R, 3].
    """
    top = {
        name: torch.softmax(output, 1).topk(min(TOP, output.shape[1]))
        for name, output in logits(network, pixels).items()
    }
    return [
        Prediction(
            path,
            picture,
            {
                name: tuple(
                    Guess(label, probability)
                    for label, probability in zip(found.indices[n].tolist(), found.values[n].tolist(), strict=True)
                )
                for name, found in top.items()
            },
        )
        for n, (path, picture) in enumerate(zip(paths, pixels, strict=True))
    ]
