"""Networks to evaluate: where they come from, and everything of them that evaluation needs."""

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
from reproduce.models import GoogLeNet, interchange
from reproduce.models.folding import folded
from reproduce.spec import RunConfig
from reproduce.training import checkpoint
from reproduce.training.step import precision_dtype


class EvaluationError(UserError):
    """A user's mistake about what is to be evaluated: the run or file, what is wrong with it, what would be valid."""


@dataclass(frozen=True)
class SingleCrop:
    """A run's validation crop: the central square of `share` of the shorter side, resized to `resolution` pixels."""

    resolution: int
    share: float


class Model(nn.Module):
    """Pixels uint8 [N, 3, S, S] to logits [N, classes], in evaluation mode, on a device, in the recipe's precision."""

    def __init__(self, network: GoogLeNet, precision: str, device: torch.device, tf_slim: bool = False) -> None:
        super().__init__()
        dtype = precision_dtype(precision, device)
        self.bf16 = dtype is torch.bfloat16
        network = network.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.network = folded(network, dtype)
        self.normalise = Normalise(dtype).to(device)
        if tf_slim:  # pixels from -1 to 1
            self.normalise.scale.fill_(2 / 255)
            self.normalise.shift.fill_(-1)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network(self.normalise(images)).main
        return logits


@dataclass(frozen=True)
class RunModel:
    """The network of a finished run, with the weights that its validation used."""

    run: RunConfig
    folder: Path
    """Of the run's record."""

    @property
    def name(self) -> str:
        return self.run.key

    @property
    def single_crop(self) -> SingleCrop:
        return SingleCrop(self.run.recipe.resolution, self.run.recipe.val_crop)

    @property
    def batch_size(self) -> int:
        """Images a batch of its validation."""
        return self.run.recipe.batch_size // self.run.workers

    @property
    def classes(self) -> int:
        return self.run.network.classes

    def identity(self) -> dict[str, Any]:
        """What determines the outputs."""
        return {"run": self.run.key}

    def check(self) -> None:
        """Raises `EvaluationError` where there is no finished checkpoint."""
        self._checkpoint()

    def load(self, device: torch.device) -> Model:
        with torch.device("meta"):
            network = GoogLeNet(self.run.network)
        content = self._checkpoint()
        averaged = content["averaged"]
        network.load_state_dict(content["network"] if averaged is None else averaged["network"], assign=True)
        return Model(network, self.run.recipe.precision, device)

    def _checkpoint(self) -> dict[str, Any]:
        content = checkpoint.load(self.folder, self.run.key)
        if content is None:
            raise EvaluationError(
                f"run {self.run.key}: no {checkpoint.FILE_NAME} in {self.folder}; evaluation needs the records of the "
                "machine that trained it, or `deeper run` to train it here"
            )
        if not content["finished"]:
            raise EvaluationError(
                f"run {self.run.key}: its checkpoint stands at epoch {content['epoch']} of {self.run.recipe.epochs}; "
                "finish it with `deeper run`"
            )
        return content


@dataclass(frozen=True)
class FileModel:
    """Weights in a public layout, saved as a state dict."""

    path: Path
    layout: interchange.Layout
    transform_input: bool | None = None
    """torchvision's own `transform_input`: pixels from -1 to 1, which its published weights want. None: yes for
    the published file, else `check` asks."""

    single_crop: ClassVar[SingleCrop] = SingleCrop(resolution=224, share=224 / 256)
    batch_size: ClassVar[int] = 32

    @property
    def name(self) -> str:
        return self.path.name

    @cached_property
    def digest(self) -> str:
        return sha256(self.path)

    @property
    def tf_slim(self) -> bool:
        return self.digest.startswith(PUBLISHED) if self.transform_input is None else self.transform_input

    @cached_property
    def classes(self) -> int:
        return self._network().config.classes

    def identity(self) -> dict[str, Any]:
        """What determines the outputs."""
        return {"sha256": self.digest, "layout": self.layout, "transform_input": self.tf_slim}

    def check(self) -> None:
        """Raises `EvaluationError` or `InterchangeError` where the file gives no network."""
        _ = self.classes  # kept, so that the file is read once for both
        if self.layout == "torchvision" and self.transform_input is None and not self.digest.startswith(PUBLISHED):
            raise EvaluationError(
                f"--transform-input: {self.path.name} is not the file that torchvision publishes; say yes (published "
                "weights saved anew or trained further) or no (trained with transform_input=False)"
            )

    def load(self, device: torch.device) -> Model:
        return Model(self._network(), "auto", device, self.tf_slim)

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


Source = RunModel | FileModel
