"""`deeper bench training`: images/s end to end, against what a user would write with torchvision alone.

Ours: FFCV files, our GoogLeNet in the port's form (so that both networks are the same), channels_last, bf16 where the
device has it, folded at evaluation. Peer: `torchvision.models.googlenet` in float32 NCHW, ImageFolder with PIL
transforms, DataLoader. Both train with auxiliary heads, SGD with momentum, random resized crops to 224, flips, and
evaluate central crops without heads; each in a process of its own, ours prepared as a run's is.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterable
from functools import partial
from itertools import chain, repeat
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import psutil
import torch
import torchvision
from rich.console import Console
from torch import Tensor
from torch.nn.functional import cross_entropy
from torchvision import transforms

from bench.suites.harness.child import child, requests
from bench.suites.harness.comparison import Comparison, Contestant, Figures, Goal, interleave, publish
from reproduce.data import DataError, load_manifest
from reproduce.data import folder as folder_source
from reproduce.data.loading.loaders import TrainLoader, TrainLoaderConfig, ValLoader, ValLoaderConfig
from reproduce.data.loading.normalise import MEAN, STD
from reproduce.data.manifest import Split
from reproduce.data.writing import prepare
from reproduce.execution.precision import resolve_precision
from reproduce.execution.process import prepare_process
from reproduce.models.folding import folded
from reproduce.spec import DataConfig, NetworkConfig, RecipeConfig, RunConfig, Seeds
from reproduce.training.step import build_step

TRAINING_GOAL, EVALUATION_GOAL = 3.3, 4.0
OURS, PEER = "deeper", "torchvision"
SPEED = "images/s"
SIDE, WARM_UP, STEPS = 224, 3, 6
LEARNING_RATE = 0.01
CPU = torch.device("cpu")
Batches = Iterable[tuple[Tensor, ...]]
"""Images and labels first."""


def main(photographs: Path, *, batch: int, rounds: int, output: Path | None) -> int:
    """Run the benchmark and print its tables; 0 where the goals are reached, else 1. Raises `DataError`."""
    for split in ("train", "val"):
        if not (photographs / split).is_dir():
            raise DataError(f"{photographs}: no folder {split}/ in it; name an ImageNet-style folder (train/<class>/*)")
    threads = psutil.cpu_count(logical=False) or 1
    console = Console()
    with tempfile.TemporaryDirectory(prefix="deeper-training-") as scratch:
        data = Path(scratch) / "photographs"
        console.print("writing FFCV files ...")
        prepare(folder_source(photographs), data)
        _check_images(data, batch)
        with (
            child(OURS, _serve, _ours, data, batch, threads) as ours,
            child(PEER, _serve, _torchvision, photographs, batch, threads) as peer,
        ):
            comparisons = [
                Comparison(
                    name=name,
                    title=title,
                    rounds=interleave(
                        {one.name: one.contestant(name) for one in (ours, peer)}, rounds=rounds, console=console
                    ),
                    goals=(Goal(figure=SPEED, ours=OURS, peer=PEER, at_least=goal),),
                )
                for name, title, goal in (
                    ("224", "End-to-end training at 224", TRAINING_GOAL),
                    ("evaluation-224", "End-to-end evaluation at 224", EVALUATION_GOAL),
                )
            ]
    setting = {"side": SIDE, "batch": batch, "steps": STEPS, "threads": threads, "photographs": photographs.name}
    return publish("training", comparisons, setting=setting, output=output)


def _check_images(data: Path, batch: int) -> None:
    manifest = load_manifest(data)
    needed: dict[Split, int] = {"train": (WARM_UP + STEPS) * batch, "val": batch}
    for split, images in needed.items():
        found = manifest.splits[split].images
        if found < images:
            raise DataError(f"--batch: {batch} needs {images} images in {split}/; there are {found}")


# --- in a process of each ------------------------------------------------------------------------------


def _serve(pipe: Connection, contestants: Callable[[Path, int, int], dict[str, Contestant]], *arguments: Any) -> None:
    found = contestants(*arguments)
    for name, index in requests(pipe):
        pipe.send(found[name](index))


def _ours(data: Path, batch: int, threads: int) -> dict[str, Contestant]:
    prepare_process(CPU, threads)
    manifest = load_manifest(data)
    run = RunConfig(
        data=DataConfig(path=str(data)),
        data_hash=manifest.hash,
        network=NetworkConfig(classes=len(manifest.classes), large_kernel="3x3", pooling="port"),
        recipe=RecipeConfig(epochs=1, batch_size=batch, learning_rate=LEARNING_RATE, resolution=SIDE),
        seeds=Seeds.of(0),
        workers=1,
    )
    dtype = resolve_precision(run.recipe.precision, CPU).dtype
    common: dict[str, Any] = {"batch_size": batch, "threads": threads, "device": CPU, "dtype": dtype}
    training = TrainLoader(data, TrainLoaderConfig(seed_order=0, seed_augmentation=0, **common))
    validation = ValLoader(data, ValLoaderConfig(resolution=SIDE, **common))
    step = build_step(run, device=CPU)
    network = folded(step.network, dtype)

    def train(images: Tensor, labels: Tensor) -> None:
        step(images, labels, LEARNING_RATE)

    @torch.inference_mode()
    def evaluate(images: Tensor, labels: Tensor) -> None:
        cross_entropy(network(images).main.float(), labels)

    return {
        "224": lambda index: _speed(training.epoch(index, SIDE), train, batch),
        "evaluation-224": lambda _: _speed(_again(validation, batch), evaluate, batch),
    }


def _torchvision(photographs: Path, batch: int, threads: int) -> dict[str, Contestant]:
    torch.set_num_threads(threads)
    to_input = (transforms.ToTensor(), transforms.Normalize(MEAN, STD))
    augment = transforms.Compose([transforms.RandomResizedCrop(SIDE), transforms.RandomHorizontalFlip(), *to_input])
    central = transforms.Compose([transforms.Resize(256), transforms.CenterCrop(SIDE), *to_input])
    seen, unseen = (
        torchvision.datasets.ImageFolder(photographs / split, form)
        for split, form in (("train", augment), ("val", central))
    )
    loading = partial(torch.utils.data.DataLoader, batch_size=batch, num_workers=threads)
    training, validation = loading(seen, shuffle=True, drop_last=True), loading(unseen)
    network = torchvision.models.googlenet(num_classes=len(seen.classes), aux_logits=True, init_weights=False)
    optimiser = torch.optim.SGD(network.parameters(), lr=LEARNING_RATE, momentum=0.9, weight_decay=1e-4)

    def train(pixels: Tensor, labels: Tensor) -> None:
        network.train()
        optimiser.zero_grad()
        outputs = network(pixels)
        loss = cross_entropy(outputs.logits, labels)
        loss = loss + 0.3 * (cross_entropy(outputs.aux_logits1, labels) + cross_entropy(outputs.aux_logits2, labels))
        loss.backward()
        optimiser.step()

    @torch.inference_mode()
    def evaluate(pixels: Tensor, labels: Tensor) -> None:
        network.eval()
        cross_entropy(network(pixels), labels)

    return {
        "224": lambda _: _speed(training, train, batch),
        "evaluation-224": lambda _: _speed(_again(validation, batch), evaluate, batch),
    }


def _again(loader: Batches, batch: int) -> Batches:
    """A loader's batches, again and again, but for a last short one."""
    return (parts for parts in chain.from_iterable(repeat(loader)) if len(parts[1]) == batch)


def _speed(batches: Batches, work: Callable[[Tensor, Tensor], None], batch: int) -> Figures:
    """Images/s over `STEPS` steps, after `WARM_UP` steps that empty what the loader had ready."""
    start = 0.0
    for index, (images, labels, *_) in enumerate(batches):
        if index == WARM_UP:
            start = time.perf_counter()
        if index == WARM_UP + STEPS:
            break
        work(images, labels)
    return {SPEED: STEPS * batch / (time.perf_counter() - start)}
