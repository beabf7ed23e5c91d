"""One DDP rank as a Ray actor: joins its gang, trains the runs that it is given, one after the other.

Kept from run to run, since importing torch and the first `DistributedDataParallel` cost some 20 s. torch and FFCV are
imported only after the rank knows its devices.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import ray

from bench.machine.nvml import DEVICE_ORDER, NVML_ORDER
from bench.records.record import Recording, RunFinishedError
from reproduce.spec import ResourcesConfig, RunConfig

if TYPE_CHECKING:
    import torch

LOG_FILE = "log.txt"
CONTROL = "control"  # concurrency group: answers while a run trains


@dataclass(frozen=True)
class Seat:
    """Where a rank sits, as far as its gang needs to know."""

    host: str
    gpus: tuple[str, ...]


@dataclass(frozen=True)
class Verdict:
    """How a rank's run ended."""

    outcome: Literal["finished", "interrupted", "failed"]
    error: str = ""
    retry: bool = False
    """Whether trying again may help: not where the run itself is at fault."""


class Rank:
    """Methods are called by the orchestrator, one at a time; but for `stop`."""

    def __init__(self, rank: int, resources: ResourcesConfig) -> None:
        self.rank, self.world_size = rank, resources.workers
        self.resources = resources
        self.store: Any = None
        self.stop_reason: str | None = None
        self.in_steps = False

    @ray.method(concurrency_group=CONTROL)
    def stop(self, reason: str) -> bool:
        """Have the run write a checkpoint at the next step that its ranks agree on, and return; later ones too.

        A call and not a file: a network file system may hide a new file for a minute. False where the run is still
        warming up, which may take half a minute, and has nothing to save.
        """
        self.stop_reason = reason
        return self.in_steps

    def _stop_requested(self) -> bool:
        """Asked by the training, from its first step on."""
        self.in_steps = True
        return self.stop_reason is not None

    def seat(self) -> Seat:
        return Seat(host=ray.util.get_node_ip_address(), gpus=tuple(str(gpu) for gpu in ray.get_gpu_ids()))

    def open_store(self) -> int:
        """Rank 0 only: make the rendezvous store; its port is chosen by the system, so no two gangs race for one."""
        import torch.distributed as dist

        self.store = dist.TCPStore(  # type: ignore[attr-defined]
            ray.util.get_node_ip_address(), 0, self.world_size, is_master=True, wait_for_workers=False
        )
        return int(self.store.port)

    def join(self, seats: list[Seat], port: int) -> None:
        """Enter the process group of the gang. NCCL between GPUs, gloo between CPUs."""
        self.device_index: int | None = None
        mine = seats[self.rank]
        self.gpus: list[str] = []
        self.gpus_elsewhere = sum(len(seat.gpus) for seat in seats if seat.host != mine.host)
        if mine.gpus:
            # NCCL reaches a peer directly only where each process sees the other's device.
            visible = [gpu for seat in seats if seat.host == mine.host for gpu in seat.gpus]
            os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(visible)
            # Ray's indices are NVML's; CUDA by itself would count the fastest device first.
            os.environ.setdefault(DEVICE_ORDER, NVML_ORDER)
            self.gpus = visible
            self.device_index = visible.index(mine.gpus[0])
        if self.world_size == 1:
            return
        import torch.distributed as dist

        if self.store is None:
            self.store = dist.TCPStore(  # type: ignore[attr-defined]
                seats[0].host, port, self.world_size, is_master=False
            )
        dist.init_process_group(
            "nccl" if mine.gpus else "gloo",
            store=self.store,
            rank=self.rank,
            world_size=self.world_size,
            timeout=timedelta(minutes=10),
        )

    def device(self) -> torch.device:
        """Where this rank computes; to be asked once it has joined."""
        import torch

        return torch.device("cpu") if self.device_index is None else torch.device("cuda", self.device_index)

    def train(self, config: RunConfig, folder: Path, data_root: Path, recording: Recording) -> Verdict:
        """Train a run, or go on with it from its checkpoint. What is printed meanwhile goes to the run's log."""
        folder.mkdir(parents=True, exist_ok=True)
        self.in_steps = False
        with _printing_to(folder / LOG_FILE):
            try:
                return self._train(config, folder, data_root, recording)
            except Exception as error:
                traceback.print_exc()
                return _failure(error)

    def _train(self, config: RunConfig, folder: Path, data_root: Path, recording: Recording) -> Verdict:
        import torch

        from bench.orchestration.session import recorded_training
        from reproduce.training.context import Context, SilentObserver
        from reproduce.training.loop import train

        device = self.device()
        if device.type == "cuda":
            torch.cuda.set_device(device)
        context = Context(
            rank=self.rank,
            world_size=self.world_size,
            device=device,
            threads=self.resources.cpus_per_worker,
            folder=folder,
            data_root=data_root,
            stop_requested=self._stop_requested,
            compiled=self.resources.compile,
            gpu_share=self.resources.gpus_per_worker or 1.0,
        )
        if self.rank == 0:
            result = recorded_training(
                config,
                context,
                gpus=self.gpus,
                gpus_elsewhere=self.gpus_elsewhere,
                recording=recording,
                why_stopped=lambda: self.stop_reason,
            )
        else:
            result = train(config, context, SilentObserver())
        return Verdict("finished" if result.finished else "interrupted")


def _failure(error: Exception) -> Verdict:
    """A run's own mistakes (a loss that is not finite, bad data, bad config) would only repeat."""
    from reproduce.training.context import NotFiniteLoss

    own_fault = isinstance(error, NotFiniteLoss | ValueError | RunFinishedError)
    return Verdict("failed", f"{type(error).__name__}: {error} (on {socket.gethostname()})", retry=not own_fault)


@contextlib.contextmanager
def _printing_to(path: Path) -> Iterator[None]:
    """Send standard output and error of the process, native code included, to a file."""
    sys.stdout.flush()
    sys.stderr.flush()
    kept = os.dup(1), os.dup(2)
    with path.open("ab") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
        try:
            yield
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for descriptor, target in zip(kept, (1, 2), strict=True):
                os.dup2(descriptor, target)
                os.close(descriptor)
