"""Run an evaluation in this process, or in several worker processes that share the images."""

from __future__ import annotations

import multiprocessing
import pickle
import signal
import tempfile
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.multiprocessing import _prctl_pr_set_pdeathsig  # type: ignore[attr-defined]
from torch.multiprocessing.spawn import ProcessException, start_processes

from reproduce.errors import UserError
from reproduce.evaluation.ensemble import EvaluationConfig, evaluate
from reproduce.execution.process import prepare_process
from reproduce.execution.ranks import Ranks, leave_process_group
from reproduce.execution.validation import Validation

START_METHOD = "forkserver"
COLLECTIVE_TIMEOUT = timedelta(days=7)
"""Time-out of the ranks' only collective operation, at the end. The exit of a rank that dies is noticed at once."""


def evaluate_in_workers(
    config: EvaluationConfig, *, workers: int, progress: Callable[[int], None] = lambda done: None
) -> Validation:
    """Run `evaluate` in several worker processes, or with one worker in this process, and wait for its result.

    Args:
        config: The evaluation.
        workers: Number of processes, at least 1. Worker i uses CUDA device i modulo the number of devices, or the CPU
            if there are none.
        progress: Called in this process with the number of images that all workers have evaluated so far in this call:
            about twice a second, or with one worker after each batch.

    Returns:
        The result over all images.

    Raises:
        UserError: `evaluate` found a user's mistake, such as a damaged image. All workers have then ended.
        ProcessException: A worker failed for another reason. All workers have then ended. With one worker, the
            original exception is raised instead.
    """
    if workers == 1:
        return _evaluate_here(config, progress)
    # Workers are forked from a server that has imported this module, so that they need not import it themselves.
    multiprocessing.set_forkserver_preload([__name__])
    counter = multiprocessing.get_context(START_METHOD).Value("q", 0)
    with tempfile.TemporaryDirectory(prefix="deeper-evaluation-") as name:
        shared = Path(name)
        arguments = (workers, shared, config, counter)
        processes: Any = start_processes(_run_rank, arguments, nprocs=workers, join=False, start_method=START_METHOD)
        try:
            while not processes.join(timeout=0.5):
                progress(counter.value)
            progress(counter.value)
        except ProcessException:
            for error in shared.glob("error-*"):
                raise pickle.loads(error.read_bytes()) from None
            raise
        finally:  # after Ctrl-C, the workers would go on
            for process in processes.processes:
                process.kill()
                process.join()
        validation: Validation = pickle.loads((shared / "result").read_bytes())
    return validation


def device_of(rank: int) -> torch.device:
    """Return the device of a worker: CUDA device `rank` modulo the number of devices, or the CPU if there are none."""
    devices = torch.cuda.device_count()
    return torch.device("cuda", rank % devices) if devices else torch.device("cpu")


def _evaluate_here(config: EvaluationConfig, progress: Callable[[int], None]) -> Validation:
    done = 0

    def count(images: int) -> None:
        nonlocal done
        done += images
        progress(done)

    device = device_of(0)
    prepare_process(device, config.threads)
    return evaluate(config, Ranks(0, 1, device), progress=count)


def _run_rank(rank: int, workers: int, shared: Path, config: EvaluationConfig, counter: Synchronized[int]) -> None:
    """Evaluate as one worker process. `shared` is a folder for the rendezvous, pickled `UserError`s and the result."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent as well, which ends its workers
    _prctl_pr_set_pdeathsig(signal.SIGKILL)  # torch sets SIGINT, which is ignored now
    device = device_of(rank)
    prepare_process(device, config.threads)
    # gloo on GPUs as well, because the ranks only exchange their results, which are objects in CPU memory.
    dist.init_process_group(
        "gloo", init_method=f"file://{shared}/rendezvous", rank=rank, world_size=workers, timeout=COLLECTIVE_TIMEOUT
    )

    def count(images: int) -> None:
        with counter.get_lock():
            counter.value += images

    try:
        validation = evaluate(config, Ranks(rank, workers, device), progress=count)
    except UserError as error:
        (shared / f"error-{rank}").write_bytes(pickle.dumps(error))
        raise
    if rank == 0:
        (shared / "result").write_bytes(pickle.dumps(validation))
    leave_process_group()
