"""Measures our training step alone, and fed by our loader: with copies ahead of it, and with copies in its way."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

from bench.suites.gpu.probe import ProbeContext, Reporter, Value
from bench.suites.harness.ceilings import synchronise
from bench.suites.harness.inputs import LEARNING_RATE, random_batch, run_without_data
from bench.suites.harness.meter import SPEED
from bench.suites.step.inputs import port_network
from reproduce.execution.process import prepare_process
from reproduce.training.step import Step, build_step

Batches = Iterable[tuple[Tensor, Tensor]]

REPETITIONS = 5
STEPS, SKIPPED = 16, 4
"""Steps of a repetition, and how many of them come before its clock starts: batches that no step has hidden yet."""
ALONE, AHEAD, WAITING = "the step alone", "copies ahead, labels with pixels", "copies between steps"
SHARE = "share of the step alone"


def feeding(context: ProbeContext, reporter: Reporter) -> None:
    """Report the images/s of our step in three forms, which take turns, and on GPUs of its CUDA graph likewise.

    Alone, the step takes the same batch each time. Fed, it takes the batches of generated pictures that our loader
    decodes with all threads: as in a run, or from the loader on the CPU by a copy that each step waits for. On CPUs
    there is nothing to copy, and the two are alike. Needs FFCV. Changes the process: it is set up like that of a run.
    """
    from bench.suites.loader.implementations import MARKED
    from bench.suites.loader.pictures import generated  # needs FFCV

    prepare_process(context.device, context.threads)
    reporter.progress("generating pictures")
    pictures = generated(context.scratch / "pictures", images=context.size.pictures)
    batch = max(1, context.size.pictures // STEPS)
    run = run_without_data(port_network(context.size.side), batch=batch)
    for graphed in (False, True) if context.device.type == "cuda" else (False,):
        reporter.progress("a graph" if graphed else "kernel by kernel")
        step = build_step(run, device=context.device, graphed=graphed)
        step.network.train()
        same = random_batch(run, context.device)
        step.warm_up(*same)
        if step.graph is not None and not step.graph.captured:
            reporter.note(f"no CUDA graph: {step.graph.reason}")
            continue
        files = pictures.source(MARKED)
        forms: dict[str, Callable[[], Batches]] = {
            ALONE: lambda same=same: [same] * STEPS,  # type: ignore[misc]
            AHEAD: _loaded(context, files, batch, ahead=True),
            WAITING: _loaded(context, files, batch, ahead=False),
        }
        speeds: dict[str, list[float]] = {name: [] for name in forms}
        for _ in range(REPETITIONS + 1):  # the first warms up
            for name, batches in forms.items():
                speeds[name].append(_images_per_s(step, batches(), batch))
        rows: dict[str, dict[str, Value]] = {}
        for name, values in speeds.items():
            middle = median(values[1:])
            rows[name] = {SPEED: middle, SHARE: middle / median(speeds[ALONE][1:])}
        form = "as a CUDA graph" if graphed else "kernel by kernel"
        reporter.table(f"a step {form}, {context.size.side} px, batch {batch}; medians of {REPETITIONS}", rows)


def _loaded(context: ProbeContext, files: Path, batch: int, *, ahead: bool) -> Callable[[], Batches]:
    """Return a function that loads pixels to the device: copied by the loader, or when a step asks for them."""
    from reproduce.data.loading.loaders import TrainLoader, TrainLoaderConfig

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about FFCV's own decoder, which the probe `machine` names
        loader = TrainLoader(
            files,
            TrainLoaderConfig(
                batch_size=batch,
                seed_order=0,
                seed_augmentation=0,
                threads=context.threads,
                device=context.device if ahead else "cpu",
                dtype=torch.uint8,
            ),
        )
    if ahead:
        return lambda: loader.epoch(0, context.size.side)
    return lambda: (
        (images.to(context.device), labels.to(context.device)) for images, labels in loader.epoch(0, context.size.side)
    )


def _images_per_s(step: Step, batches: Batches, batch: int) -> float:
    """Take a step on each batch, and return the speed of all but the first ones."""
    start, steps = 0.0, 0
    for steps, (images, labels) in enumerate(batches, 1):
        step(images, labels, LEARNING_RATE)
        if steps == SKIPPED:
            synchronise(step.device)
            start = time.perf_counter()
    synchronise(step.device)
    return (steps - SKIPPED) * batch / (time.perf_counter() - start)
