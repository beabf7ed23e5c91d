"""Runs to evaluate, made without training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from reproduce.data import load_manifest
from reproduce.data.loading.loaders import ValLoader, ValLoaderConfig
from reproduce.data.loading.normalise import Normalise
from reproduce.evaluation.models import RunModel
from reproduce.models import GoogLeNet
from reproduce.spec import DataConfig, NetworkConfig, RecipeConfig, RunConfig, Seeds
from reproduce.training import checkpoint


@torch.no_grad()
def opinionated(network: nn.Module, data: Path, resolution: int) -> nn.Module:
    """Give a network the statistics of the validation images and a last layer that separates them.

    A freshly initialised network gives all images nearly the same probabilities.
    """
    nn.init.normal_(network.fc.weight, std=0.05)
    images, _, _ = next(iter(ValLoader(data, ValLoaderConfig(batch_size=24, resolution=resolution))))
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    network.train()(Normalise()(images))
    return network.eval()


def run_model(folder: Path, data: Path, *, seed: int = 0, finished: bool = True, **recipe: Any) -> RunModel:
    """A run in float32 with a checkpoint as training writes it. Averaged weights differ from the last ones."""
    manifest = load_manifest(data)
    settings = RecipeConfig(
        **{"epochs": 1, "batch_size": 4, "learning_rate": 0.1, "resolution": 32, "precision": "float32"} | recipe
    )
    run = RunConfig(
        data=DataConfig(path=data.name),
        data_hash=manifest.hash,
        network=NetworkConfig(classes=len(manifest.classes), resolution=settings.resolution, aux="none"),
        recipe=settings,
        seeds=Seeds.of(seed),
        workers=1,
    )
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    averages = settings.averaging != "none"
    last, *averaged = (
        opinionated(GoogLeNet(run.network), data, settings.resolution).state_dict() for _ in range(1 + averages)
    )
    content = {
        "key": run.key,
        "epoch": int(finished),
        "step": 0,
        "finished": finished,
        "network": last,
        "averaged": {"network": averaged[0], "steps": 1} if averages else None,
    }
    checkpoint.save(folder, content)
    return RunModel(run, folder)
