"""Defines the worker: the Ray actor of one DDP rank, which joins a process group and trains one run after the other.

Workers are kept from run to run, because importing torch and building the first `DistributedDataParallel` take some
20 s. They import torch and FFCV only once they know their devices.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import ray

from bench.machine.computation import Computation, this_computation
from bench.machine.nvml import DEVICE_ORDER, NVML_ORDER
from bench.records.record import Recording, RunFinishedError
from reproduce.errors import CannotContinueError, UserError
from reproduce.files.disk import DiskFullError, naming_full_disk
from reproduce.limits import KillsForMemory, kills_for_memory
from reproduce.spec import ResourcesConfig, RunConfig
from reproduce.text.redaction import redacted, redacting_output

if TYPE_CHECKING:
    import torch

LOG_FILE = "log.txt"
CONTROL = "control"  # the concurrency group of methods that answer while a run trains
COLLECTIVE_TIMEOUT = timedelta(days=1)
"""Time-out of each collective operation. It is no guard: the driver ends a run whose ranks make no steps."""


@dataclass(frozen=True)
class RankPlacement:
    """The node and the GPUs that Ray has assigned to a rank."""

    host: str
    """IP address of the node."""
    gpus: tuple[str, ...]
    """The GPUs of the rank, empty on CPUs. They are named as in the CUDA_VISIBLE_DEVICES with which Ray was started, or
    by their index if it was not set."""
    process: int = 0
    """Number of the rank's process on its node."""
    name: str = ""
    """Name of the node."""
    node: str = ""
    """Ray's id of the node."""
    kills: KillsForMemory = KillsForMemory(0, 0)  # noqa: RUF009 - frozen
    """What the kernel has killed on the node for memory before the rank was placed there."""


@dataclass(frozen=True)
class Attempt:
    """What the ranks of a worker group train next: a run from its checkpoint, or from the start if it has none."""

    config: RunConfig
    folder: Path
    """The run's record folder, on storage that all ranks share. It is created if necessary."""
    data_root: Path
    """The folder of the prepared data sets."""
    recording: Recording = field(default_factory=Recording)
    """How often rank 0 writes telemetry and progress."""
    workers_s: float | None = None
    """Seconds in which the workers were placed, started and joined; None if an earlier run had the same ones."""


@dataclass(frozen=True)
class Outcome:
    """How an attempt at a run ended, as a worker or its group reports it to the executor."""

    status: Literal["finished", "interrupted", "failed", "refused"]
    """A refused run was not started, since this would have resumed it with another computation."""
    error: str = ""
    """Why the attempt failed or was refused; empty if neither."""
    retry: bool = False
    """Whether another attempt at the failed run may succeed."""
    stop_all: str = ""
    """Why no other run can go on either, such as a full disk; empty if others can."""
    elsewhere: bool = False
    """Whether the attempt failed because another rank did, so that only that one knows why."""


class Worker:
    """One rank of a worker group, to be run as a Ray actor.

    The group calls `placement`, `create_store` (on rank 0 of several workers) and `join` once, then `train` for each
    run. Calls run one at a time, except that `stop` may be called during `train`.

    Args:
        rank: The rank, from 0.
        resources: The resources of each run; their `workers` are the world size.
    """

    def __init__(self, rank: int, resources: ResourcesConfig) -> None:
        self.rank, self.world_size = rank, resources.workers
        self.resources = resources
        self.store: Any = None
        self.stop_reason: str | None = None
        self.is_stepping = False
        self.steps = 0
        """Steps of training and batches of validation since the start of this process."""
        self.gpus: list[str] = []
        """The run's GPUs on this host."""
        self.gpus_elsewhere = 0
        """How many GPUs the run has on other hosts."""
        self.hosts: list[str] = []
        """Names of the nodes of all ranks, by rank."""
        self.device_index: int | None = None
        """CUDA's index of this rank's GPU; None on a CPU."""

    @ray.method(concurrency_group=CONTROL)
    def stop(self, reason: str) -> bool:
        """Ask the current run, and every later one, to write a checkpoint and return.

        Does not wait for it. The training notices the request after its current step, on a GPU after at most ten. One
        rank is enough, because the ranks agree when to stop. The request is a call rather than a file because a network
        file system may hide a new file for a minute.

        Args:
            reason: Why the run is stopped; rank 0 records it.

        Returns:
            Whether the current run has begun to look for stop requests, which it does from its first steps on. If it
            has not, it is still warming up, for up to half a minute, and has nothing to save.
        """
        self.stop_reason = reason
        return self.is_stepping

    def _stop_requested(self) -> bool:
        """Whether to stop. The training calls this as `RankSetup.stop_requested`."""
        self.is_stepping = True
        self.steps += 1
        return self.stop_reason is not None

    @ray.method(concurrency_group=CONTROL)
    def steps_so_far(self) -> int:
        """How many times the trainings of this process have looked for a stop request, which they do in every step."""
        return self.steps

    @ray.method(concurrency_group=CONTROL)
    def stacks(self) -> str:
        """The Python stacks of all threads of this process, as text."""
        names = {thread.ident: thread.name for thread in threading.enumerate()}
        return "\n".join(
            f"thread {names.get(number, number)}:\n{''.join(traceback.format_stack(frame))}"
            for number, frame in sys._current_frames().items()
        )

    def placement(self) -> RankPlacement:
        """The node, the GPUs and the process that Ray has assigned to this rank."""
        gpus = tuple(str(gpu) for gpu in ray.get_gpu_ids())
        address = ray.util.get_node_ip_address()
        return RankPlacement(
            host=address,
            gpus=gpus,
            process=os.getpid(),
            name=socket.gethostname(),
            node=ray.get_runtime_context().get_node_id(),
            kills=kills_for_memory(),
        )

    def create_store(self) -> int:
        """Create the rendezvous store of the process group. Called on rank 0 only, before any rank joins.

        Returns:
            The TCP port of the store on this node. The system chooses it, so worker groups do not compete for a port.
        """
        import torch.distributed as dist

        self.store = dist.TCPStore(  # type: ignore[attr-defined]
            ray.util.get_node_ip_address(), 0, self.world_size, is_master=True, wait_for_workers=False
        )
        return int(self.store.port)

    def join(self, placements: Sequence[RankPlacement], port: int) -> None:
        """Choose the device and join the process group: NCCL between GPUs, gloo between CPUs.

        Collective: all ranks call it at the same time, and it waits for all of them. A single worker forms no process
        group. With GPUs, CUDA_VISIBLE_DEVICES of this process is set to the GPUs of all ranks on this host.

        Args:
            placements: The placements of all ranks, by rank.
            port: The port that `create_store` returned on rank 0. A single worker does not use it.
        """
        mine = placements[self.rank]
        self.hosts = [other.name for other in placements]
        self.gpus_elsewhere = sum(len(other.gpus) for other in placements if other.host != mine.host)
        if mine.gpus:
            # Every process must see the GPUs of its peers on this host: otherwise NCCL cannot use direct access.
            self.gpus = [gpu for other in placements if other.host == mine.host for gpu in other.gpus]
            os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(self.gpus)
            # Ray numbers GPUs as NVML does; CUDA's default order puts the fastest first.
            os.environ.setdefault(DEVICE_ORDER, NVML_ORDER)
            self.device_index = self.gpus.index(mine.gpus[0])
        if self.world_size == 1:
            return
        import torch.distributed as dist

        if self.store is None:
            self.store = dist.TCPStore(  # type: ignore[attr-defined]
                placements[0].host, port, self.world_size, is_master=False
            )
        dist.init_process_group(
            "nccl" if mine.gpus else "gloo",
            store=self.store,
            rank=self.rank,
            world_size=self.world_size,
            timeout=COLLECTIVE_TIMEOUT,
        )

    def computation(self) -> Computation:
        """How this rank computes. Valid only after `join`."""
        return this_computation(self.device(), threads=self.resources.cpus_per_worker, compiled=self.resources.compile)

    def device(self) -> torch.device:
        """The torch device that this rank trains on. Valid only after `join`."""
        import torch

        return torch.device("cpu") if self.device_index is None else torch.device("cuda", self.device_index)

    def train(self, attempt: Attempt, computation: Computation | None = None) -> Outcome:
        """Train a run from its checkpoint, or from the start if it has none.

        Collective: all ranks call it with the same attempt. Rank 0 writes the record. During the call, the standard
        output and error of this process are appended to `log.txt` in the folder.

        Args:
            attempt: The run, its folder and its data.
            computation: How all ranks compute, which rank 0 records.

        Returns:
            How the attempt ended on this rank. An `Exception` of the training is not raised but becomes a failed
            outcome; its traceback is in the log.
        """
        self.is_stepping = False
        folder = attempt.folder
        try:
            with naming_full_disk(folder / LOG_FILE):
                folder.mkdir(parents=True, exist_ok=True)
                with _redirecting_output(folder / LOG_FILE):
                    try:
                        with naming_full_disk(folder):
                            return self._train(attempt, computation)
                    except Exception as error:  # whatever it is, it becomes the run's outcome
                        traceback.print_exc()
                        return _failure(error)
        except DiskFullError as error:  # there was no room for the log
            return _failure(error)

    def _train(self, attempt: Attempt, computation: Computation | None) -> Outcome:
        import torch

        from bench.orchestration.session import check_data, train_and_record
        from reproduce.training.interface import RankSetup, SilentObserver
        from reproduce.training.loop import train

        device = self.device()
        if device.type == "cuda":
            torch.cuda.set_device(device)
        setup = RankSetup(
            rank=self.rank,
            world_size=self.world_size,
            device=device,
            threads=self.resources.cpus_per_worker,
            folder=attempt.folder,
            data_root=attempt.data_root,
            stop_requested=self._stop_requested,
            compiled=self.resources.compile,
            gpu_share=self.resources.gpus_per_worker or 1.0,
        )
        if self.rank == 0:
            result = train_and_record(
                attempt.config,
                setup,
                gpus=self.gpus,
                gpus_elsewhere=self.gpus_elsewhere,
                hosts=self.hosts,
                computation=computation,
                workers_s=attempt.workers_s,
                recording=attempt.recording,
                stop_reason=lambda: self.stop_reason,
            )
        else:
            check_data(attempt.config, attempt.data_root)
            result = train(attempt.config, setup, SilentObserver())
        return Outcome("finished" if result.finished else "interrupted")


def _failure(error: Exception) -> Outcome:
    """The outcome of a run that raised `error`.

    Another attempt is worth its time unless the error is certain to repeat: the loss diverged, the user made a mistake,
    or the run is finished already. Everything else may be the machine's fault, and even a bug may depend on timing. An
    error that lets no run go on interrupts this one and stops the others.
    """
    from reproduce.execution.ranks import failed_elsewhere
    from reproduce.training.interface import NonFiniteLossError

    if isinstance(error, CannotContinueError):
        return Outcome("interrupted", stop_all=f"{error} (on {socket.gethostname()})")
    repeats = isinstance(error, NonFiniteLossError | UserError | RunFinishedError)
    sentence = redacted(f"{type(error).__name__}: {error} (on {socket.gethostname()})")
    return Outcome("failed", sentence, retry=not repeats, elsewhere=failed_elsewhere(error))


@contextlib.contextmanager
def _redirecting_output(path: Path) -> Iterator[None]:
    """Append the standard output and error of this process, native code included, to a file.

    Secrets are hidden in what Python prints, but not in what native code does.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    kept = os.dup(1), os.dup(2)
    with path.open("ab") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
        try:
            with redacting_output():
                yield
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for descriptor, target in zip(kept, (1, 2), strict=True):
                os.dup2(descriptor, target)
                os.close(descriptor)
