"""Refer to the models of an evaluation, which are finished runs or weight files, and load them as classifiers."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from reproduce.data.loading.normalise import Normalise
from reproduce.data.manifest import sha256
from reproduce.errors import UserError
from reproduce.evaluation.protocols import PUBLISHED
from reproduce.evaluation.weights import WeightsError, read_state_dict
from reproduce.execution.precision import resolve_precision
from reproduce.models import GoogLeNet, interchange
from reproduce.models.folding import folded
from reproduce.spec import RunConfig
from reproduce.training import checkpoint


class EvaluationError(UserError):
    """Raised when a model to evaluate is missing, unfinished, unreadable or not fully described.

    The message names the run or the file, the mistake and its remedy.
    """


@dataclass(frozen=True)
class SingleCrop:
    """The crop of the protocol "single": a central square of the image, resized for the network."""

    resolution: int
    """Side of the resized square, in pixels."""
    share: float
    """Side of the square in the image, as a share of the image's shorter side."""


class Classifier(nn.Module):
    """A network prepared for evaluation on one device: pixels, uint8 [N, 3, S, S], to logits, [N, classes].

    Args:
        network: The network. It is moved to the device; a `folded` copy of it runs.
        precision: The precision that its recipe requests, see `resolve_precision`.
        device: The device that computes.
        tf_slim: If True, pixels are scaled to the range from -1 to 1, which TF-slim's weights expect. If False, they
            are normalised with the mean and deviation of ImageNet.
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
class TrainedWeights:
    """The network of a run at its newest checkpoint, with the weights that the run validates."""

    network: GoogLeNet
    """In evaluation mode, in float32 and on the CPU, its auxiliary classifiers included. Parameters need no
    gradients."""
    averaged: bool
    """Whether the weights are averages over the training steps rather than those after the last step."""
    epochs: int
    """Number of complete epochs of training."""
    finished: bool
    """Whether the training is finished."""


@dataclass(frozen=True)
class RunModel:
    """Refers to the network of a finished run.

    It has the averaged weights if the recipe averages weights, otherwise the weights after the last step.
    """

    run: RunConfig
    folder: Path
    """The folder of the run's record, which holds its checkpoint."""

    @property
    def name(self) -> str:
        return self.run.key

    @property
    def single_crop(self) -> SingleCrop:
        return SingleCrop(self.run.recipe.resolution, self.run.recipe.val_crop)

    @property
    def batch_size(self) -> int:
        """Images in a batch of one rank in the run's own validation."""
        return self.run.recipe.batch_size // self.run.workers

    @property
    def classes(self) -> int:
        return self.run.network.classes

    def identity(self) -> dict[str, Any]:
        """Return the entries that identify the model in the record of an evaluation: `run`, the run's key."""
        return {"run": self.run.key}

    def check(self) -> None:
        """Check that the run has a finished checkpoint in its folder.

        Raises:
            EvaluationError: There is no checkpoint, it is damaged, or the run is not finished.
            CheckpointError: The checkpoint belongs to another run.
        """
        self._checkpoint()

    def load(self, device: torch.device) -> Classifier:
        """Load the run's network onto a device, in the precision of its recipe. Raises the errors of `check`."""
        return Classifier(self.trained().network, self.run.recipe.precision, device)

    def trained(self, *, unfinished: bool = False) -> TrainedWeights:
        """Load the run's network in float32 onto the CPU.

        Args:
            unfinished: Whether the run may be unfinished. Its newest checkpoint is then loaded.

        Raises:
            EvaluationError: There is no checkpoint, it is damaged, or the run is not finished.
            CheckpointError: The checkpoint belongs to another run.
        """
        with torch.device("meta"):
            network = GoogLeNet(self.run.network)
        content = self._checkpoint(unfinished=unfinished)
        averaged = content["averaged"]
        network.load_state_dict(content["network"] if averaged is None else averaged["network"], assign=True)
        return TrainedWeights(
            network.eval().requires_grad_(False), averaged is not None, content["epoch"], content["finished"]
        )

    def _checkpoint(self, *, unfinished: bool = False) -> dict[str, Any]:
        content, damaged = checkpoint.load_and_name_damaged(self.folder, self.run.key)
        if damaged:
            raise EvaluationError(
                f"run {self.run.key}: {self.folder / damaged[0]} is damaged; use an undamaged copy of these records, "
                "or move the run's folder away and train it again with `deeper run`"
            )
        if content is None:
            raise EvaluationError(
                f"run {self.run.key}: no {checkpoint.FILE_NAME} in {self.folder}; use the records of the machine that "
                "trained it, or train it here with `deeper run`"
            )
        if not content["finished"] and not unfinished:
            raise EvaluationError(
                f"run {self.run.key}: its checkpoint stands at epoch {content['epoch']} of {self.run.recipe.epochs}; "
                "finish it with `deeper run`"
            )
        return content


@dataclass(frozen=True)
class FileModel:
    """Refers to a network whose weights are in a file: a state dict in a public layout."""

    path: Path
    layout: interchange.Layout
    transform_input: bool | None = None
    """Whether the weights expect pixels from -1 to 1, like torchvision's argument of this name. None is valid for
    torchvision's published file, whose weights do, and in the layout "plain", where it means False. For other files in
    torchvision's layout, `check` raises an error if it is None."""

    single_crop: ClassVar[SingleCrop] = SingleCrop(resolution=224, share=224 / 256)
    batch_size: ClassVar[int] = 32

    @property
    def name(self) -> str:
        return self.path.name

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the file, in hexadecimal digits. The file is read once, at the first access."""
        return sha256(self.path)

    @property
    def tf_slim(self) -> bool:
        """Whether the weights expect pixels from -1 to 1. Without `transform_input`, only the published file does."""
        return self.digest.startswith(PUBLISHED) if self.transform_input is None else self.transform_input

    @cached_property
    def classes(self) -> int:
        return self._network().config.classes

    def identity(self) -> dict[str, Any]:
        """Return the entries that identify the model in the record of an evaluation.

        Returns:
            The keys `sha256` (of the file), `layout` and `transform_input` (as in `tf_slim`).
        """
        return {"sha256": self.digest, "layout": self.layout, "transform_input": self.tf_slim}

    def check(self) -> None:
        """Check that the file holds a network in its layout and that the range of its input is known.

        Raises:
            EvaluationError: The file is missing or is not a state dict, or `transform_input` is needed and missing.
            InterchangeError: The state dict does not fit the layout.
        """
        _ = self.classes  # reads the file, and is cached
        if self.layout == "torchvision" and self.transform_input is None and not self.digest.startswith(PUBLISHED):
            raise EvaluationError(
                f"--transform-input: {self.path.name} is not the file that torchvision publishes; give yes "
                "(published weights, saved again or trained further) or no (trained with transform_input=False)"
            )

    def load(self, device: torch.device) -> Classifier:
        """Load the network onto a device, in the precision "auto".

        Raises:
            EvaluationError: The file is missing or is not a state dict.
            InterchangeError: The state dict does not fit the layout.
        """
        return Classifier(self._network(), "auto", device, self.tf_slim)

    def _network(self) -> GoogLeNet:
        if not self.path.is_file():
            raise EvaluationError(f"--weights: {self.path}: no such file; give a state dict saved by torch.save")
        try:
            content = read_state_dict(self.path)
        except WeightsError as error:
            raise EvaluationError(f"--weights: {self.path}: {error}") from error
        return interchange.load(content, layout=self.layout)


ModelReference = RunModel | FileModel
"""A reference to a model of an evaluation."""
