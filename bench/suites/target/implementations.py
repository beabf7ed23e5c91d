"""The implementations of `deeper bench target`: ours, torchvision's, and ours without one of its parts at a time."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from reproduce.spec import SMALLEST_INPUT, DataConfig, NetworkConfig, RecipeConfig, RunConfig, Seeds

OURS, BASELINE = "deeper", "torchvision"


@dataclass(frozen=True)
class Implementation:
    """Which parts are ours. A part that is not ours is torchvision's."""

    loader: bool = True
    """FFCV files and our loaders, or ImageFolder with PIL and DataLoader."""
    step: bool = True
    """Our loop, step and validation in the precision `auto`, or torchvision's network and torch's optimiser in float32,
    NCHW."""
    resizing: bool = True
    """Whether the side of the training images grows over the first three quarters of the epochs."""
    recipe: bool = True
    """Our recipe, or that of torchvision's reference scripts: rates, schedule, batch size, crops and epochs."""


IMPLEMENTATIONS = {
    OURS: Implementation(),
    BASELINE: Implementation(loader=False, step=False, resizing=False, recipe=False),
    "without-loader": Implementation(loader=False),
    "without-step": Implementation(step=False),
    "without-resizing": Implementation(resizing=False),
    "without-recipe": Implementation(recipe=False),
}


@dataclass(frozen=True)
class Workload:
    """The training that all implementations have to do, and where they do it."""

    photographs: Path
    """ImageNet-style folder of photographs, with `train/<class>/*` and `val/<class>/*`."""
    prepared: Path
    """The same as FFCV files."""
    data_hash: str
    classes: int
    side: int
    """Side of the images at the end of the training and in every validation, in pixels."""
    target: float
    """The top-1 that ends the training, 0 to 1."""
    epochs: int
    """Epochs of our recipe."""
    longest_epochs: int
    """The most epochs of torchvision's recipe."""
    threads: int
    """CPU threads of torch, threads of our loaders, and worker processes of DataLoader."""
    state: Path
    """Folder of the checkpoints, one subfolder for each implementation and seed."""


def run_config(name: str, workload: Workload, seed: int) -> RunConfig:
    """Return the run that an implementation trains with a seed.

    The network is that of torchvision for all, so that they differ in nothing but the parts of `Implementation`.

    Args:
        name: Name of the implementation in `IMPLEMENTATIONS`.
        workload: The training.
        seed: The seed of weights, order, augmentation and dropout.
    """
    parts = IMPLEMENTATIONS[name]
    side, start = workload.side, smallest_side(workload.side) if parts.resizing else None
    recipe = our_recipe(side, workload.epochs) if parts.recipe else reference_recipe(side, workload.longest_epochs)
    return RunConfig(
        data=DataConfig(path=workload.prepared.name),
        data_hash=workload.data_hash,
        network=NetworkConfig(
            classes=workload.classes, resolution=side, large_kernel="3x3", pooling="port", dropout=0.2
        ),
        recipe=recipe.model_copy(
            update={"resolution_start": start, "precision": "auto" if parts.step else "float32"},
        ),
        seeds=Seeds.of(seed),
        workers=1,
    )


def our_recipe(side: int, epochs: int) -> RecipeConfig:
    """Return the recipe of the shipped experiments on photographs (`ablation-imagenette`), for a number of epochs."""
    return RecipeConfig(
        epochs=epochs,
        batch_size=64,
        resolution=side,
        learning_rate=0.02,
        schedule="one-cycle",
        warmup_epochs=epochs / 4,
        nesterov=True,
        weight_decay=5e-4,
        decay_norm_and_bias=False,
        label_smoothing=0.1,
        crop_scale=(0.35, 1.0),
    )


def reference_recipe(side: int, longest_epochs: int) -> RecipeConfig:
    """Return the defaults of torchvision's reference script for classification (references/classification/train.py).

    StepLR with a step size of 30 and a factor of 0.1, crops from 8 % of the area, and a validation crop of 224 of 256
    pixels.
    """
    return RecipeConfig(
        epochs=longest_epochs,
        batch_size=32,
        resolution=side,
        learning_rate=0.1,
        schedule="step",
        decay=0.1,
        decay_epochs=30,
        weight_decay=1e-4,
    )


def smallest_side(side: int) -> int:
    """Return the side of our first training images, in pixels: about three quarters, as 160 of 224."""
    return max(SMALLEST_INPUT, side * 3 // 4 // 16 * 16)
