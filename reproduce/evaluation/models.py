"""The models of an evaluation: references to runs and weight files, and the classifiers that they are loaded as."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from reproduce.data.loading.normalise import Normalise
from reproduce.data.manifest import sha256
from reproduce.errors import UserError
from reproduce.evaluation.protocols import PUBLISHED
from reproduce.execution.precision import resolve_precision
from reproduce.models import GoogLeNet, interchange
from reproduce.models.folding import folded
from reproduce.spec import RunConfig
from reproduce.training import checkpoint


class EvaluationError(UserError):
    """A user's mistake about what to evaluate; the message names the run or file, what is wrong, and what is valid."""


@dataclass(frozen=True)
class SingleCrop:
    """A validation crop: a central square whose side is `share` of the image's shorter side, resized to `resolution`
    pixels."""

    resolution: int
    share: float


class Classifier(nn.Module):
    """A network ready for evaluation on one device: pixels, uint8 [N, 3, S, S], to logits, [N, classes].

    Args:
        network: The network. A `folded` copy of it runs.
        precision: The precision that its recipe requests, see `resolve_precision`.
        device: The device that computes.
        tf_slim: Whether the network expects pixels from -1 to 1, as TF-slim's does, instead of ImageNet's
            normalisation.
    """

    def __init__(self, network: GoogLeNet, precision: str, device: torch.device, tf_slim: bool = False) -> None:
        super().__init__()
        self.dtype = resolve_precision(precision, device).dtype
        network = network.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.network = folded(network, self.dtype)
        self.normalise = Normalise(self.dtype).to(device)
        if tf_slim:
            self.normalise.scale.fill_(2 / 255)
            self.normalise.shift.fill_(-1)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network(self.normalise(images)).main
        return logits


@dataclass(frozen=True)
class RunModel:
    """The network of a finished run, with the weights that its validation used: averaged ones if it averages."""

    run: RunConfig
    folder: Path
    """The folder of the run's record."""

    @property
    def name(self) -> str:
        return self.run.key

    @property
    def single_crop(self) -> SingleCrop:
        return SingleCrop(self.run.recipe.resolution, self.run.recipe.val_crop)

    @property
    def batch_size(self) -> int:
        """Images of a batch of its validation, on one rank."""
        return self.run.recipe.batch_size // self.run.workers

    @property
    def classes(self) -> int:
        return self.run.network.classes

    def identity(self) -> dict[str, Any]:
        """What identifies the model in the record of an evaluation."""
        return {"run": self.run.key}

    def check(self) -> None:
        """Raises `EvaluationError` if there is no finished checkpoint."""
        self._checkpoint()

    def load(self, device: torch.device) -> Classifier:
        """Read the weights onto a device. Raises `EvaluationError` if there is no finished checkpoint."""
        with torch.device("meta"):
            network = GoogLeNet(self.run.network)
        content = self._checkpoint()
        averaged = content["averaged"]
        network.load_state_dict(content["network"] if averaged is None else averaged["network"], assign=True)
        return Classifier(network, self.run.recipe.precision, device)

    def _checkpoint(self) -> dict[str, Any]:
        content = checkpoint.load(self.folder, self.run.key)
        if content is None:
            raise EvaluationError(
                f"run {self.run.key}: no {checkpoint.FILE_NAME} in {self.folder}; use the records of the machine that "
                "trained it, or train it here with `deeper run`"
            )
        if not content["finished"]:
            raise EvaluationError(
                f"run {self.run.key}: its checkpoint stands at epoch {content['epoch']} of {self.run.recipe.epochs}; "
                "finish it with `deeper run`"
            )
        return content


@dataclass(frozen=True)
class FileModel:
    """A network whose weights are a file: a state dict in a public layout."""

    path: Path
    layout: interchange.Layout
    transform_input: bool | None = None
    """torchvision's argument `transform_input`: whether the weights expect pixels from -1 to 1, as its published ones
    do. None: it is known for the published file, and for any other file `check` raises an error."""

    single_crop: ClassVar[SingleCrop] = SingleCrop(resolution=224, share=224 / 256)
    batch_size: ClassVar[int] = 32

    @property
    def name(self) -> str:
        return self.path.name

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the file."""
        return sha256(self.path)

    @property
    def tf_slim(self) -> bool:
        """Whether the weights expect pixels from -1 to 1."""
        return self.digest.startswith(PUBLISHED) if self.transform_input is None else self.transform_input

    @cached_property
    def classes(self) -> int:
        return self._network().config.classes

    def identity(self) -> dict[str, Any]:
        """What identifies the model in the record of an evaluation."""
        return {"sha256": self.digest, "layout": self.layout, "transform_input": self.tf_slim}

    def check(self) -> None:
        """Raises `EvaluationError` or `InterchangeError` if the file does not hold a network of its layout."""
        _ = self.classes  # reads the file, and is cached
        if self.layout == "torchvision" and self.transform_input is None and not self.digest.startswith(PUBLISHED):
            raise EvaluationError(
                f"--transform-input: {self.path.name} is not the file that torchvision publishes; give yes "
                "(published weights, saved again or trained further) or no (trained with transform_input=False)"
            )

    def load(self, device: torch.device) -> Classifier:
        """Read the weights onto a device. Raises what `check` raises about the file itself."""
        return Classifier(self._network(), "auto", device, self.tf_slim)

    def _network(self) -> GoogLeNet:
        if not self.path.is_file():
            raise EvaluationError(f"--weights: {self.path}: no such file; give a state dict saved by torch.save")
        try:
            content = torch.load(self.path, map_location="cpu", weights_only=True)
        except (RuntimeError, UnpicklingError, EOFError) as error:
            raise EvaluationError(f"--weights: {self.path}: not a state dict saved by torch.save") from error
        if not isinstance(content, dict):
            raise EvaluationError(f"--weights: {self.path}: a {type(content).__name__}, not a state dict")
        return interchange.load(content, layout=self.layout)


ModelReference = RunModel | FileModel
"""What an evaluation takes as a model."""
