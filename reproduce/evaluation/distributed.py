"""An evaluation by one process, or by several that share the images."""

from __future__ import annotations

import multiprocessing
import pickle
import tempfile
from collections.abc import Callable, Sequence
from datetime import timedelta
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import ProcessException, start_processes

from reproduce.evaluation.ensemble import evaluate
from reproduce.evaluation.models import Source
from reproduce.evaluation.parts import Found
from reproduce.evaluation.protocols import Protocol
from reproduce.execution.process import prepare_process
from reproduce.execution.ranks import Ranks, leave_process_group
from reproduce.execution.validation import Validation

START = "forkserver"
SLOWEST = timedelta(days=7)  # ranks meet once, at the end; a rank that dies is noticed at once all the same


def evaluate_on(
    sources: Sequence[Source],
    folder: Path,
    protocol: Protocol,
    *,
    workers: int,
    threads: int,
    parts: Path | None = None,
    known: Found | None = None,
    progress: Callable[[int], None] = lambda done: None,
) -> Validation:
    """`evaluate` with `workers` processes of `threads` CPU threads each; worker i uses CUDA device i, if there are any.

    `progress` is told, every now and then, how many images are done, without those known before. Raises
    what `evaluate` does, and `ProcessException` where a worker fails otherwise; the others are ended then.
    """
    if workers == 1:
        done = 0

        def count(images: int) -> None:
            nonlocal done
            done += images
            progress(done)

        prepare_process(device_of(0), threads)
        ranks = Ranks(0, 1, device_of(0))
        return evaluate(sources, folder, protocol, ranks, threads=threads, parts=parts, known=known, progress=count)
    multiprocessing.set_forkserver_preload([__name__])  # workers that fork from it need not import all this again
    counter = multiprocessing.get_context(START).Value("q", 0)
    with tempfile.TemporaryDirectory(prefix="deeper-evaluation-") as meeting:
        job = (workers, Path(meeting), list(sources), folder, protocol, threads, parts, known, counter)
        processes: Any = start_processes(_rank, job, nprocs=workers, join=False, start_method=START)
        try:
            while not processes.join(timeout=0.5):
                progress(counter.value)
            progress(counter.value)
        except ProcessException:
            for mistake in Path(meeting).glob("mistake-*"):
                raise pickle.loads(mistake.read_bytes()) from None
            raise
        validation: Validation = pickle.loads((Path(meeting) / "result").read_bytes())
    return validation


def device_of(rank: int) -> torch.device:
    """The device of a worker."""
    devices = torch.cuda.device_count()
    return torch.device("cuda", rank % devices) if devices else torch.device("cpu")


def _rank(
    rank: int,
    workers: int,
    meeting: Path,
    sources: Sequence[Source],
    folder: Path,
    protocol: Protocol,
    threads: int,
    parts: Path | None,
    known: Found | None,
    counter: Synchronized[int],
) -> None:
    prepare_process(device_of(rank), threads)
    # gloo on GPUs as well: nothing but the results, objects in memory, is sent.
    dist.init_process_group(
        "gloo", init_method=f"file://{meeting}/rendezvous", rank=rank, world_size=workers, timeout=SLOWEST
    )

    def count(images: int) -> None:
        with counter.get_lock():
            counter.value += images

    ranks = Ranks(rank, workers, device_of(rank))
    try:
        validation = evaluate(
            sources, folder, protocol, ranks, threads=threads, parts=parts, known=known, progress=count
        )
    except ValueError as error:  # a user's, such as a damaged image
        (meeting / f"mistake-{rank}").write_bytes(pickle.dumps(error))
        raise
    if rank == 0:
        (meeting / "result").write_bytes(pickle.dumps(validation))
    leave_process_group()
