"""Measures our loader for several numbers of decoding threads, with and without photometric distortions."""

from __future__ import annotations

import time
import warnings
from pathlib import Path

import torch

from bench.suites.gpu.probe import ProbeContext, Reporter, Value
from bench.suites.harness.ceilings import synchronise
from reproduce.execution.precision import resolve_precision
from reproduce.execution.process import prepare_process


def loader(context: ProbeContext, reporter: Reporter) -> None:
    """Report the images/s at which training batches of generated pictures arrive in the memory of the device.

    Each number of threads of `thread_counts` is measured with and without photometric distortions. Needs FFCV. Changes
    the process: torch keeps the last number of threads.
    """
    from bench.suites.loader.implementations import MARKED
    from bench.suites.loader.pictures import generated  # needs FFCV

    reporter.progress("generating pictures")
    pictures = generated(context.scratch / "pictures", images=context.size.pictures)
    files = pictures.source(MARKED)
    rows: dict[str, dict[str, Value]] = {}
    for threads in thread_counts(context.threads):
        prepare_process(context.device, threads)
        for photometric in (False, True):
            column = "images/s, photometric" if photometric else "images/s"
            reporter.progress(f"{threads} threads, {column}")
            speed = _images_per_s(context, files, threads, photometric)
            rows.setdefault(f"{threads} threads", {})[column] = speed
            reporter.table(f"{pictures.description}, crops to {context.size.side} px on {context.device.type}", rows)


def thread_counts(max_threads: int) -> list[int]:
    """List the numbers of threads to measure: the powers of two below `max_threads`, then `max_threads` itself."""
    return [*(2**power for power in range(max_threads.bit_length()) if 2**power < max_threads), max_threads]


def _images_per_s(context: ProbeContext, files: Path, threads: int, photometric: bool) -> float:
    from reproduce.data.loading.loaders import TrainLoader, TrainLoaderConfig

    # As in a run: bytes cross the bus and a GPU normalises them, whereas on CPUs the decoder normalises.
    dtype = torch.uint8 if context.device.type == "cuda" else resolve_precision("auto", context.device).dtype
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about FFCV's own decoder, which the probe `machine` names
        config = TrainLoaderConfig(
            batch_size=min(context.size.batch, context.size.pictures // 4),
            seed_order=0,
            seed_augmentation=0,
            photometric=photometric,
            threads=threads,
            device=context.device,
            dtype=dtype,
        )
        train_loader = TrainLoader(files, config)
    for _ in train_loader.epoch(0, context.size.side):
        pass
    images, epoch, start = 0, 1, time.perf_counter()
    while time.perf_counter() - start < context.size.repetition_s:
        for pixels, _ in train_loader.epoch(epoch, context.size.side):
            images += len(pixels)
        epoch += 1
    synchronise(context.device)
    return images / (time.perf_counter() - start)
