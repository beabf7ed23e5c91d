"""`deeper bench training`: measures training and evaluation from end to end, from JPEGs on disk to updated weights.

Measured: images/s over a few steps at 224 pixels, of training with both auxiliary classifiers and of evaluation
without them.

Against: what a user would write with torchvision alone: `torchvision.models.googlenet` in float32 NCHW, fed by
ImageFolder with PIL transforms and DataLoader. Ours is fed by FFCV files, and has the layers of torchvision's port (so
that both networks are the same), channels_last, bf16 on devices that support it, and folded weights at evaluation. Both
use SGD with momentum, random resized crops, flips, and central crops at evaluation.

Interleaved: each implementation has a worker process that stays alive. Ours is set up like the process of a run. Each
repetition measures our steps, then torchvision's. The first repetition is dropped.

Not shown: accuracy; a long training, in which the machine may become warmer and slower; GPUs, since both train on CPUs.
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

import torch
import torchvision
from pydantic import Field
from torch import Tensor
from torch.nn.functional import cross_entropy
from torchvision import transforms

from bench.suites.harness.comparison import Comparison, Goal, Measure, Measurement, interleave
from bench.suites.harness.reporting import ResultOutput, progress_console, report_comparisons
from bench.suites.harness.worker_process import received_requests, worker_process
from reproduce.data import DataError, load_manifest
from reproduce.data import folder as folder_source
from reproduce.data.loading.loaders import TrainLoader, TrainLoaderConfig, ValLoader, ValLoaderConfig
from reproduce.data.loading.normalise import MEAN, STD
from reproduce.data.manifest import Split
from reproduce.data.writing import prepare
from reproduce.execution.precision import resolve_precision
from reproduce.execution.process import prepare_process
from reproduce.limits import usable_cores
from reproduce.models.folding import folded
from reproduce.spec import Config, DataConfig, NetworkConfig, RecipeConfig, RunConfig, Seeds
from reproduce.training.step import build_step

TRAINING_GOAL, EVALUATION_GOAL = 3.3, 4.0
OURS, BASELINE = "deeper", "torchvision"
SPEED = "images/s"
SIDE, WARM_UP, STEPS = 224, 3, 6
LEARNING_RATE = 0.01
CPU = torch.device("cpu")
Batches = Iterable[tuple[Tensor, ...]]
"""Batches of a loader: tuples whose first two elements are the images and the labels."""


class TrainingOptions(Config):
    """Options of `deeper bench training`: the photographs, the batch size and the number of repetitions."""

    folder: Path
    """ImageNet-style folder of photographs, with `train/<class>/*` and `val/<class>/*`."""
    batch: int = Field(32, ge=1)
    """Images in a step. The default is the batch size of Caffe's bvlc_googlenet."""
    repetitions: int = Field(5, ge=1)
    """Repetitions that are kept, beside the first one, which is dropped."""


def main(options: TrainingOptions, *, output: ResultOutput) -> int:
    """Compare our training and evaluation with torchvision's on CPUs, and print and write the result.

    Args:
        options: The photographs, the batch size and the number of repetitions.
        output: Where the result goes beside the terminal.

    Returns:
        The exit code: 0 if both goals are reached, 1 otherwise. The goals are 3.3 times torchvision's images/s in
        training (`TRAINING_GOAL`) and 4 times in evaluation (`EVALUATION_GOAL`).

    Raises:
        DataError: The folder has no `train/` or no `val/`, or fewer than nine batches of training images or one batch
            of validation images.
        WorkerProcessError: The process of an implementation ended before it replied.
    """
    photographs, batch = options.folder, options.batch
    for split in ("train", "val"):
        if not (photographs / split).is_dir():
            raise DataError(f"{photographs}: no folder {split}/ in it; name an ImageNet-style folder (train/<class>/*)")
    threads = usable_cores()
    console = progress_console()
    with tempfile.TemporaryDirectory(prefix="deeper-training-") as scratch:
        data = Path(scratch) / "photographs"
        console.print("writing FFCV files ...")
        prepare(folder_source(photographs), data)
        _check_images(data, batch)
        with (
            worker_process(OURS, _serve, _ours, data, batch, threads) as ours,
            worker_process(BASELINE, _serve, _torchvision, photographs, batch, threads) as baseline,
        ):
            comparisons = [
                Comparison(
                    name=name,
                    title=title,
                    repetitions=interleave(
                        {worker.name: worker.measure(name) for worker in (ours, baseline)},
                        repetitions=options.repetitions,
                        console=console,
                    ),
                    goals=(Goal(metric=SPEED, ours=OURS, baseline=BASELINE, at_least=goal),),
                )
                for name, title, goal in (
                    ("224", "End-to-end training at 224", TRAINING_GOAL),
                    ("evaluation-224", "End-to-end evaluation at 224", EVALUATION_GOAL),
                )
            ]
    setting = {"side": SIDE, "batch": batch, "steps": STEPS, "threads": threads, "photographs": photographs.name}
    return report_comparisons("training", comparisons, setting=setting, output=output)


def _check_images(data: Path, batch: int) -> None:
    manifest = load_manifest(data)
    needed: dict[Split, int] = {"train": (WARM_UP + STEPS) * batch, "val": batch}
    for split, images in needed.items():
        found = manifest.splits[split].images
        if found < images:
            raise DataError(f"--batch: {batch} needs {images} images in {split}/; there are {found}")


# --- in the worker processes --------------------------------------------------------------------------


def _serve(pipe: Connection, build: Callable[..., dict[str, Measure]], *arguments: Any) -> None:
    """Reply to each request `(name of a comparison, index of the repetition)` with a measurement.

    Args:
        pipe: The connection to the benchmark.
        build: Builds an implementation and returns its `Measure` for each comparison, by name.
        *arguments: The arguments of `build`.
    """
    measures = build(*arguments)
    for name, index in received_requests(pipe):
        pipe.send(measures[name](index))


def _ours(data: Path, batch: int, threads: int) -> dict[str, Measure]:
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
        "224": lambda index: _measure_steps(training.epoch(index, SIDE), train, batch),
        "evaluation-224": lambda _: _measure_steps(_full_batches(validation, batch), evaluate, batch),
    }


def _torchvision(photographs: Path, batch: int, threads: int) -> dict[str, Measure]:
    torch.set_num_threads(threads)
    to_input = (transforms.ToTensor(), transforms.Normalize(MEAN, STD))
    augment = transforms.Compose([transforms.RandomResizedCrop(SIDE), transforms.RandomHorizontalFlip(), *to_input])
    central = transforms.Compose([transforms.Resize(256), transforms.CenterCrop(SIDE), *to_input])
    training_set, validation_set = (
        torchvision.datasets.ImageFolder(photographs / split, transform)
        for split, transform in (("train", augment), ("val", central))
    )
    data_loader = partial(torch.utils.data.DataLoader, batch_size=batch, num_workers=threads)
    training, validation = data_loader(training_set, shuffle=True, drop_last=True), data_loader(validation_set)
    network = torchvision.models.googlenet(num_classes=len(training_set.classes), aux_logits=True, init_weights=False)
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
        "224": lambda _: _measure_steps(training, train, batch),
        "evaluation-224": lambda _: _measure_steps(_full_batches(validation, batch), evaluate, batch),
    }


def _full_batches(loader: Batches, batch: int) -> Batches:
    """Iterate over a loader without end, and leave out its incomplete batches."""
    return (parts for parts in chain.from_iterable(repeat(loader)) if len(parts[1]) == batch)


def _measure_steps(batches: Batches, step: Callable[[Tensor, Tensor], None], batch: int) -> Measurement:
    """Measure images/s over `STEPS` steps, after `WARM_UP` steps, which use up the batches that the loader had ready.

    Args:
        batches: At least `WARM_UP + STEPS` batches.
        step: Called with the images and labels of a batch.
        batch: Images in a batch.
    """
    start = 0.0
    for index, (images, labels, *_) in enumerate(batches):
        if index == WARM_UP:
            start = time.perf_counter()
        if index == WARM_UP + STEPS:
            break
        step(images, labels)
    return {SPEED: STEPS * batch / (time.perf_counter() - start)}
