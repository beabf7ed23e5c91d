"""Our loader to the device, by decoding threads, with and without photometric distortions."""

from __future__ import annotations

import time
import warnings
from pathlib import Path

import torch

from bench.suites.gpu.part import Figure, Report, Task
from bench.suites.harness.ceilings import synchronise
from reproduce.execution.precision import resolve_precision
from reproduce.execution.process import prepare_process


def loader(task: Task, report: Report) -> None:
    from bench.suites.loader.implementations import MARKED
    from bench.suites.loader.pictures import generated  # needs FFCV

    report.progress("making pictures")
    pictures = generated(task.scratch / "pictures", images=task.size.pictures)
    files = pictures.source(MARKED)
    rows: dict[str, dict[str, Figure]] = {}
    for threads in thread_counts(task.threads):
        prepare_process(task.device, threads)
        for photometric in (False, True):
            column = "images/s, photometric" if photometric else "images/s"
            report.progress(f"{threads} threads, {column}")
            speed = _images_per_s(task, files, threads, photometric)
            rows.setdefault(f"{threads} threads", {})[column] = speed
            report.table(f"{pictures.description}, crops to {task.size.side} px on {task.device.type}", rows)


def thread_counts(most: int) -> list[int]:
    """1, 2, 4, ... and `most`."""
    return [*(2**power for power in range(most.bit_length()) if 2**power < most), most]


def _images_per_s(task: Task, files: Path, threads: int, photometric: bool) -> float:
    from reproduce.data.loading.loaders import TrainLoader, TrainLoaderConfig

    # As a run has it: a GPU normalises bytes that crossed the bus as such; on CPUs the decoder does it.
    dtype = torch.uint8 if task.device.type == "cuda" else resolve_precision("auto", task.device).dtype
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the stock decoder, which the machine's description names
        source = TrainLoader(
            files,
            TrainLoaderConfig(
                batch_size=min(task.size.batch, task.size.pictures // 4),
                seed_order=0,
                seed_augmentation=0,
                photometric=photometric,
                threads=threads,
                device=task.device,
                dtype=dtype,
            ),
        )
    for _ in source.epoch(0, task.size.side):
        pass
    images, epoch, start = 0, 1, time.perf_counter()
    while time.perf_counter() - start < task.size.repetition_s:
        for pixels, _ in source.epoch(epoch, task.size.side):
            images += len(pixels)
        epoch += 1
    synchronise(task.device)
    return images / (time.perf_counter() - start)
