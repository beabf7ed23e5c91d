"""`deeper bench evaluation`: compares the speed of a 144-crop evaluation with that of the network's forward pass alone.

Measured: crops/s and crops per CPU-second of what `deeper evaluate --protocol 144-crop` does: decode, cut, copy,
mirror, forward pass, average of the probabilities.

Against: the same network in the same precision, applied repeatedly to one batch of crops that is already on the device.

Interleaved: each repetition evaluates a few batches, then passes the same number of batches through the network alone.
The first repetition is dropped. Both run in this process.

Not shown: accuracy, since the weights are random; and other implementations of the protocol, since there is none to
compare with.
"""

from __future__ import annotations

import tempfile
import time
from itertools import islice
from pathlib import Path

import torch
import torchvision
from pydantic import Field

from bench.suites.harness.comparison import Comparison, Goal, Measurement, interleave
from bench.suites.harness.reporting import ResultOutput, progress_console, report_comparisons
from reproduce.data import DataError, load_manifest
from reproduce.evaluation.distributed import device_of
from reproduce.evaluation.ensemble import averaged_probabilities, multi_crop, multi_crop_batches
from reproduce.evaluation.models import FileModel
from reproduce.evaluation.protocols import CROPS, Protocol
from reproduce.execution.process import prepare_process
from reproduce.execution.ranks import Ranks
from reproduce.limits import usable_cores
from reproduce.spec import Config

GOAL = 0.8
OURS, BASELINE = "evaluation", "bare forward"
SPEED = "crops/s"
CPU_SPEED = "crops per CPU-second"
PROTOCOL: Protocol = "144-crop"
BATCHES = 4  # in a repetition


class EvaluationOptions(Config):
    """Options of `deeper bench evaluation`: the data set, and the number of repetitions."""

    data: Path
    """Folder of a prepared data set of photographs, whose validation images are evaluated."""
    repetitions: int = Field(5, ge=1)
    """Repetitions that are kept, beside the first one, which is dropped."""


def main(options: EvaluationOptions, *, output: ResultOutput) -> int:
    """Compare a 144-crop evaluation with the forward pass alone, and print and write the result.

    The benchmark runs in this process and sets its number of torch threads. It uses the first GPU if there is one.

    Args:
        options: The data set, and the number of repetitions.
        output: Where the result goes beside the terminal.

    Returns:
        The exit code: 0 if the evaluation reaches at least 0.8 times the crops/s of the forward pass (`GOAL`), 1
        otherwise.

    Raises:
        DataError: `options.data` is not a prepared data set, or it has fewer validation images than a repetition needs.
            A repetition needs five batches: five images on a CPU and 40 on a GPU.
    """
    data = options.data
    manifest = load_manifest(data)
    threads = usable_cores()
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
            raise DataError(
                f"{data}: has {manifest.splits['val'].images} validation images; {images * (BATCHES + 1)} are needed"
            )

        def evaluation(index: int) -> Measurement:
            batches = averaged_probabilities([source], data, PROTOCOL, ranks, threads=threads)
            next(batches)  # loads the network, and starts cutting the next images
            clock = _Clock()
            evaluated = sum(len(batch.labels) for batch in islice(batches, BATCHES))
            measurement = clock.measurement(CROPS[PROTOCOL] * evaluated)
            batches.close()
            return measurement

        @torch.inference_mode()
        def bare_forward(index: int) -> Measurement:
            clock = _Clock()
            for _ in range(BATCHES):
                model(pixels).cpu()
            return clock.measurement(BATCHES * len(pixels))

        repetitions = interleave(
            {OURS: evaluation, BASELINE: bare_forward}, repetitions=options.repetitions, console=progress_console()
        )
    comparison = Comparison(
        name="144-crop",
        title=f"{CROPS[PROTOCOL]} crops at {source.single_crop.resolution}",
        repetitions=repetitions,
        goals=(Goal(metric=SPEED, ours=OURS, baseline=BASELINE, at_least=GOAL),),
    )
    setting = {
        "data": f"{manifest.source} {manifest.origin}",
        "device": str(ranks.device),
        "bf16": model.dtype is torch.bfloat16,
        "images a batch": images,
        "batches": BATCHES,
        "threads": threads,
    }
    return report_comparisons("evaluation", [comparison], setting=setting, output=output)


class _Clock:
    """Measures wall-clock time and the CPU time of this process, from the construction of the object."""

    def __init__(self) -> None:
        self._start = time.perf_counter(), time.process_time()

    def measurement(self, crops: int) -> Measurement:
        """Return the speed at which `crops` crops were processed since the construction of this object."""
        wall, cpu = self._start
        return {SPEED: crops / (time.perf_counter() - wall), CPU_SPEED: crops / (time.process_time() - cpu)}
