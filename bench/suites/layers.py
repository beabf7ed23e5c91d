"""`deeper bench layers`: measures the speeds that claims of the ledger are about, in CPU-seconds.

Measured: a training step of the network with 1x1 reductions and without them; and a 1x1 convolution as a matrix
product, sparse and dense.

Against: each other. Two sparse layers keep a quarter and a hundredth of the weights of a dense one, at random places.
They are compared with this one, and with a smaller dense layer that has as many multiply-adds as the first of them.

Interleaved: the implementations take turns, each in a process of its own with one thread, so that its CPU time and its
peak memory are its own. The first repetition is dropped.

Not shown: accuracy; other sparse formats than torch's compressed rows (CSR), whose product on CPUs is MKL's if torch
was built with it; structured sparsity; more than one thread.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from multiprocessing.connection import Connection
from typing import Any

import psutil
import torch
from pydantic import Field

from bench.suites.harness.comparison import Comparison, interleave
from bench.suites.harness.memory import MEMORY, peak_memory
from bench.suites.harness.meter import Meter
from bench.suites.harness.reporting import ResultOutput, progress_console, report_comparisons
from bench.suites.harness.worker_process import received_requests, worker_process
from bench.suites.step.implementations import STEPS
from bench.suites.step.inputs import step_inputs
from reproduce.execution.process import prepare_process
from reproduce.models.cost import cost
from reproduce.spec import Config, NetworkConfig, Reduction

SUITE = "layers"
REDUCTIONS: tuple[Reduction, ...] = ("reduced", "unreduced")
SPARSE, DENSE, WHOLE, SPARSEST = "sparse", "dense", "dense, all weights", "sparse, 1 %"
CHANNELS = 512
"""Input and output channels of the layer whose weights are kept or dropped, those of the network's stage 4."""
PLACES = 14 * 14
"""Places of its map, as for images of 224 pixels."""
KEPT, FEWEST = 0.25, 0.01
"""Shares of the weights that the sparse layers keep. The smaller dense layer has half as many channels on each side."""
PARAMETERS, MACS = "parameters, M", "multiply-adds an image, M"


class LayersOptions(Config):
    """Options of `deeper bench layers`: the size of the work, and the number of repetitions."""

    side: int = Field(64, ge=32)
    """Side of the images of a training step, in pixels."""
    batch: int = Field(64, ge=2)
    """Images of a training step."""
    repetitions: int = Field(7, ge=1)
    """Repetitions that are kept, beside the first one, which is dropped."""


def main(options: LayersOptions, *, output: ResultOutput) -> int:
    """Measure both comparisons, and print and write the result.

    Args:
        options: The size of the work, and the number of repetitions.
        output: Where the result goes beside the terminal.

    Returns:
        The exit code, which is 0: the suite has no goals, since a claim that does not hold is a finding.

    Raises:
        WorkerProcessError: A worker process ended before it replied.
    """
    networks = {
        reduction: NetworkConfig(reduction=reduction, aux="none", classes=10, resolution=options.side)
        for reduction in REDUCTIONS
    }
    costs = {name: cost(network) for name, network in networks.items()}
    sizes = {
        SPARSE: (CHANNELS, KEPT),
        DENSE: (round(CHANNELS * KEPT**0.5), 1.0),
        WHOLE: (CHANNELS, 1.0),
        SPARSEST: (CHANNELS, FEWEST),
    }
    comparisons = [
        _compared(
            "reductions",
            f"a training step of {options.batch} images at {options.side} px, one thread",
            {name: (serve_step, network, options.batch) for name, network in networks.items()},
            {name: {PARAMETERS: one.parameters / 1e6, MACS: one.macs / 1e6} for name, one in costs.items()},
            options.repetitions,
        ),
        _compared(
            "sparse",
            f"a 1x1 convolution on {PLACES} places, {CHANNELS} channels before weights are dropped, float32, "
            "one thread",
            {name: (serve_layer, *size) for name, size in sizes.items()},
            {name: {MACS: channels**2 * kept * PLACES / 1e6} for name, (channels, kept) in sizes.items()},
            options.repetitions,
        ),
    ]
    setting = {"side": options.side, "batch": options.batch, "threads": 1, "device": "cpu", "kept": KEPT}
    return report_comparisons(SUITE, comparisons, setting=setting, output=output)


def _compared(
    name: str,
    title: str,
    served: dict[str, tuple[Any, ...]],
    once: dict[str, dict[str, float]],
    repetitions: int,
) -> Comparison:
    """Measure implementations in turn, each in a process of its own.

    Args:
        name: Name of the comparison.
        title: The work in a phrase.
        served: For each implementation, the function that serves it and its arguments.
        once: What is known of each implementation beside its measurements. Its peak memory is added.
        repetitions: Repetitions that are kept.
    """
    with ExitStack() as stack:
        workers = {own: stack.enter_context(worker_process(own, *arguments)) for own, arguments in served.items()}
        peaks = {
            own: stack.enter_context(peak_memory(psutil.Process(worker.request("pid"))))
            for own, worker in workers.items()
        }
        measured = interleave(
            {own: worker.measure(own) for own, worker in workers.items()},
            repetitions=repetitions,
            console=progress_console(),
        )
        found = {own: {**once[own], MEMORY: peak()} for own, peak in peaks.items()}
    return Comparison(name=name, title=title, repetitions=measured, once=found)


# --- in a worker process ------------------------------------------------------------------------------


def serve_step(pipe: Connection, network: NetworkConfig, batch: int) -> None:
    """Serve repetitions of a training step of our network: one step each."""
    device = torch.device("cpu")
    prepare_process(device, 1)
    step = STEPS["deeper"].build(step_inputs(network, batch, device, training=True))
    _serve(pipe, step, images=batch, times=1)


def serve_layer(pipe: Connection, channels: int, kept: float) -> None:
    """Serve repetitions of a layer as a matrix product, of which a share of the weights is kept at random places.

    Args:
        pipe: The connection to the benchmark.
        channels: Input and output channels.
        kept: The share of the weights that is kept. Below 1, the weights are stored as compressed rows (CSR).
    """
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(channels, channels, generator=generator)
    maps = torch.randn(channels, PLACES, generator=generator)
    if kept < 1:
        places = torch.randperm(channels**2, generator=generator)[: round(kept * channels**2)]
        mask = torch.zeros(channels**2, dtype=torch.bool).index_fill_(0, places, True)
        weights = (weights * mask.view(channels, channels)).to_sparse_csr()
    _serve(pipe, torch.inference_mode()(lambda: weights @ maps), images=1, times=200)


def _serve(pipe: Connection, work: Callable[[], object], *, images: int, times: int) -> None:
    """Reply to the request "pid" with the number of this process, and to others with a measurement of the work."""
    meter = Meter(torch.device("cpu"))
    for request in received_requests(pipe):
        pipe.send(psutil.Process().pid if request == "pid" else meter.measure(work, images=images, times=times))
