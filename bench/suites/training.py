"""`deeper bench training`: images/s end to end, against what a user would write with torchvision alone.

Ours: FFCV files, our GoogLeNet in the port's form (so that both networks are the same), channels_last, bf16 where the
device has it. Peer: `torchvision.models.googlenet` in float32 NCHW, ImageFolder with PIL transforms, DataLoader.
Both train with auxiliary heads, SGD with momentum, random resized crops to 224, flips.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import psutil
import torch
import torchvision
from rich.console import Console
from torch import Tensor
from torchvision import transforms

from bench.suites.rounds import Comparison, Contestant, Figures, Goal, interleave, publish
from reproduce.data import DataError, PrepareOptions, TrainLoader, load_manifest, prepare
from reproduce.data import folder as folder_source
from reproduce.data.normalise import MEAN, STD
from reproduce.spec import DataConfig, NetworkConfig, RecipeConfig, RunConfig, Seeds
from reproduce.training.step import build_step

GOAL = 2.5
SPEED = "images/s"
SIDE, WARM_UP, STEPS = 224, 3, 6
LEARNING_RATE = 0.01


def main(photographs: Path, *, batch: int, rounds: int, output: Path | None) -> int:
    """Run the benchmark and print its table; 0 where the goal is reached, else 1. Raises `DataError`."""
    if not (photographs / "train").is_dir():
        raise DataError(f"{photographs}: no folder train/ in it; name an ImageNet-style folder (train/<class>/*)")
    threads = psutil.cpu_count(logical=False) or 1
    torch.set_num_threads(threads)
    console = Console()
    with tempfile.TemporaryDirectory(prefix="deeper-training-") as scratch:
        data = Path(scratch) / "photographs"
        console.print("writing FFCV files ...")
        prepare(folder_source(photographs), data, options=PrepareOptions(), progress=lambda *_: None)
        contestants = {
            "deeper": _ours(data, batch, threads),
            "torchvision": _torchvision(photographs, batch, threads),
        }
        speeds = interleave(contestants, rounds=rounds, console=console)
    setting = {"side": SIDE, "batch": batch, "steps": STEPS, "threads": threads, "photographs": photographs.name}
    comparison = Comparison(
        name="224",
        title="End-to-end training at 224",
        rounds=speeds,
        goals=(Goal(figure=SPEED, ours="deeper", peer="torchvision", at_least=GOAL),),
    )
    return publish("training", [comparison], setting=setting, output=output)


def _ours(data: Path, batch: int, threads: int) -> Contestant:
    manifest = load_manifest(data)
    config = RunConfig(
        data=DataConfig(path=str(data)),
        data_hash=manifest.hash,
        network=NetworkConfig(classes=len(manifest.classes), large_kernel="3x3", pooling="port"),
        recipe=RecipeConfig(epochs=1, batch_size=batch, learning_rate=LEARNING_RATE, resolution=SIDE),
        seeds=Seeds.of(0),
        workers=1,
    )
    loader = TrainLoader(
        data,
        batch_size=batch,
        seed_order=0,
        seed_augmentation=0,
        rank=0,
        world_size=1,
        crop_scale=config.recipe.crop_scale,
        crop_ratio=config.recipe.crop_ratio,
        flip=True,
        train_fraction=1.0,
        threads=threads,
        device=torch.device("cpu"),
    )
    step = build_step(config, device=torch.device("cpu"))

    def train(images: Tensor, labels: Tensor) -> None:
        step(images, labels, LEARNING_RATE)

    return lambda index: _speed(loader.epoch(index, SIDE), train, batch)


def _torchvision(photographs: Path, batch: int, threads: int) -> Contestant:
    augment = transforms.Compose(
        [
            transforms.RandomResizedCrop(SIDE),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(MEAN, STD),
        ]
    )
    images = torchvision.datasets.ImageFolder(photographs / "train", augment)
    loader = torch.utils.data.DataLoader(images, batch, shuffle=True, num_workers=threads, drop_last=True)
    network = torchvision.models.googlenet(num_classes=len(images.classes), aux_logits=True, init_weights=False)
    optimiser = torch.optim.SGD(network.parameters(), lr=LEARNING_RATE, momentum=0.9, weight_decay=1e-4)
    entropy = torch.nn.functional.cross_entropy

    def train(pixels: Tensor, labels: Tensor) -> None:
        optimiser.zero_grad()
        outputs = network(pixels)
        loss = entropy(outputs.logits, labels)
        loss = loss + 0.3 * (entropy(outputs.aux_logits1, labels) + entropy(outputs.aux_logits2, labels))
        loss.backward()
        optimiser.step()

    return lambda _: _speed(loader, train, batch)


def _speed(batches: Iterable[tuple[Tensor, Tensor]], train: Callable[[Tensor, Tensor], None], batch: int) -> Figures:
    """Images/s over `STEPS` steps, after `WARM_UP` steps that empty what the loader had ready."""
    start = 0.0
    for index, (images, labels) in enumerate(batches):
        if index == WARM_UP:
            start = time.perf_counter()
        if index == WARM_UP + STEPS:
            break
        train(images, labels)
    return {SPEED: STEPS * batch / (time.perf_counter() - start)}
