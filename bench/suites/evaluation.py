"""`deeper bench evaluation`: 144 crops of stored images against the bare network's forward pass on the same batch.

Ours: decode, cut, copy, mirror, forward pass, average, as `deeper evaluate --protocol 144-crop` does. Bare: the same
network, in the same precision, again and again on one batch that is ready on the device.
"""

from __future__ import annotations

import tempfile
import time
from itertools import islice
from pathlib import Path

import psutil
import torch
import torchvision
from rich.console import Console

from bench.suites.harness.comparison import Comparison, Figures, Goal, interleave, publish
from reproduce.data import DataError, load_manifest
from reproduce.evaluation.distributed import device_of
from reproduce.evaluation.ensemble import averaged_probabilities, multi_crop, multi_crop_batches
from reproduce.evaluation.models import FileModel
from reproduce.evaluation.protocols import CROPS, Protocol
from reproduce.execution.process import prepare_process
from reproduce.execution.ranks import Ranks

GOAL = 0.8
SPEED = "crops/s"
CPU_SPEED = "crops per CPU-second"
PROTOCOL: Protocol = "144-crop"
BATCHES = 4


def main(data: Path, *, rounds: int, output: Path | None) -> int:
    """Run the benchmark and print its table; 0 where the goal is reached, else 1. Raises `DataError`."""
    manifest = load_manifest(data)
    threads = psutil.cpu_count(logical=False) or 1
    ranks = Ranks(0, 1, device_of(0))
    prepare_process(ranks.device, threads)
    with tempfile.TemporaryDirectory(prefix="deeper-evaluation-") as scratch:
        weights = Path(scratch) / "random.pth"
        network = torchvision.models.googlenet(num_classes=len(manifest.classes), aux_logits=False, init_weights=False)
        torch.save(network.state_dict(), weights)
        source = FileModel(weights, "torchvision", transform_input=False)
        model = source.load(ranks.device)
        crops = multi_crop(PROTOCOL, source.single_crop.resolution)
        pixels, labels, _ = next(multi_crop_batches(crops, data, ranks, threads=threads))
        images = len(labels)
        if manifest.splits["val"].images < images * (BATCHES + 1):
            raise DataError(f"{data}: has too few validation images; {images * (BATCHES + 1)} are needed")

        def evaluation(index: int) -> Figures:
            batches = averaged_probabilities([source], data, PROTOCOL, ranks, threads=threads)
            next(batches)  # the network is loaded, the next images are cut
            clock = _Clock()
            done = sum(len(batch.labels) for batch in islice(batches, BATCHES))
            figures = clock.figures(CROPS[PROTOCOL] * done)
            batches.close()
            return figures

        @torch.inference_mode()
        def bare(index: int) -> Figures:
            clock = _Clock()
            for _ in range(BATCHES):
                model(pixels).cpu()
            return clock.figures(BATCHES * len(pixels))

        speeds = interleave({"evaluation": evaluation, "bare forward": bare}, rounds=rounds, console=Console())
    comparison = Comparison(
        name="144-crop",
        title=f"{CROPS[PROTOCOL]} crops at {source.single_crop.resolution}",
        rounds=speeds,
        goals=(Goal(figure=SPEED, ours="evaluation", peer="bare forward", at_least=GOAL),),
    )
    setting = {
        "data": f"{manifest.source} {manifest.origin}",
        "device": str(ranks.device),
        "bf16": model.dtype is torch.bfloat16,
        "images a batch": images,
        "batches": BATCHES,
        "threads": threads,
    }
    return publish("evaluation", [comparison], setting=setting, output=output)


class _Clock:
    def __init__(self) -> None:
        self._start = time.perf_counter(), time.process_time()

    def figures(self, crops: int) -> Figures:
        wall, cpu = self._start
        return {SPEED: crops / (time.perf_counter() - wall), CPU_SPEED: crops / (time.process_time() - cpu)}
