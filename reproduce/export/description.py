"""Describes an exported network: what its input has to be, what its outputs mean, and which run it comes from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from reproduce.data.loading.normalise import MEAN, STD
from reproduce.models import GoogLeNet
from reproduce.spec import RunConfig

LOGITS = "logits"
HEADS = ("aux1", "aux2")


@dataclass(frozen=True)
class Origin:
    """The run that a network comes from, as its record tells it."""

    key: str
    """The run's key."""
    experiment: str
    """Name of the experiment; empty if no experiment plans the run."""
    arm: str
    """Name of the arm; the key if no experiment plans the run."""
    seed: int | None
    """Seed of the run; None if no experiment plans it."""
    commit: str | None
    """Commit of the code that trained it; None if it was not recorded."""
    dirty: bool | None
    """Whether the code had uncommitted changes; None if this was not recorded."""
    accuracy: Mapping[str, float]
    """The recorded accuracies of the validation, `top1` and `top5`, from 0 to 1. Empty before the first validation."""


@dataclass(frozen=True)
class Description:
    """What a file with an exported network says about it. `as_dict` has the same entries in the form of JSON."""

    origin: Origin
    run: RunConfig
    classes: tuple[str, ...]
    """Names of the classes in the prepared data, in the order of the logits."""
    class_names: tuple[str, ...]
    """Names of the classes for people, in the same order; equal to `classes` where no others are known."""
    epochs: int
    """Number of complete epochs."""
    finished: bool
    """Whether the training is finished."""
    averaged: bool
    """Whether the weights are averages over the training steps."""

    def as_dict(self, network: GoogLeNet) -> dict[str, Any]:
        """Describe a network of the run for a file.

        Args:
            network: The network in the file, with those auxiliary classifiers that are exported.
        """
        recipe = self.run.recipe
        return {
            "run": {name: value for name, value in asdict(self.origin).items() if name != "accuracy"},
            "accuracy": dict(self.origin.accuracy),
            "training": {"epochs_done": self.epochs, "epochs": recipe.epochs, "finished": self.finished},
            "weights": f"averaged over the steps ({recipe.averaging})" if self.averaged else "after the last step",
            "network": network.config.model_dump(mode="json"),
            "data": {"path": self.run.data.path, "hash": self.run.data_hash},
            "classes": list(self.classes),
            "class_names": list(self.class_names),
            "input": {
                "tensor": f"float32 [N, 3, {recipe.resolution}, {recipe.resolution}], RGB",
                "resolution": recipe.resolution,
                "crop": recipe.val_crop,
                "resize": "the central square, crop x the shorter side, resized bilinearly with antialiasing",
                "mean": list(MEAN),
                "std": list(STD),
                "normalisation": "(pixel / 255 - mean) / std",
            },
            "outputs": [LOGITS, *(head for head in HEADS if getattr(network, head) is not None)],
        }
