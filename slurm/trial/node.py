"""Measures one node of a trial; on the head node, also gathers what the others have found and judges it.

srun --ntasks-per-node=1 python -m slurm.trial.node --folder F --records R [--data D] [--run J] [--scratch S] ...
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import fcntl
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from bench.results.store import write_result
from bench.suites.scaling.prediction import PREDICTED, SPEED
from reproduce.errors import UserError
from reproduce.execution.ranks import failed_elsewhere
from reproduce.files.atomic import write_atomically
from reproduce.files.locks import try_lock
from slurm.job.log import log, one_line
from slurm.job.node.allocation import Allocation, read_allocation
from slurm.job.node.network import NetworkAddress, find_address
from slurm.trial import measures
from slurm.trial.gpus import inspect_gpus, tflop_rate
from slurm.trial.meeting import Meeting, MeetingError, meet
from slurm.trial.training import measure_training, read_run
from slurm.trial.verdicts import LOST, RESULTS, SCALING, UNFINISHED, judge

LOCK = "lock"
GRADIENTS = 7_000_000  # float32: as many as GoogLeNet has parameters, without its auxiliary classifiers
CLOCK_ROUNDS = 5
GROUP_TIMEOUT = datetime.timedelta(minutes=5)
"""How long nodes wait for one that does not come to a collective operation; the slowest step has to fit."""


def main() -> int:
    """Take part in a trial with this node.

    Returns:
        0, or 1 if this node has a problem; the head node's is 1 if any node has one.
    """
    options = _parser().parse_args()
    allocation = read_allocation()
    try:
        own = find_address(next(iter(allocation.peers), None), options.interface)
        os.environ |= {"GLOO_SOCKET_IFNAME": own.interface, "NCCL_SOCKET_IFNAME": own.interface}
        meeting = meet(options.folder, own.address, allocation)
    except (OSError, UserError, MeetingError) as error:
        log(f"this node takes no part: {one_line(error)}")
        return 1
    node = Node(options, meeting, own)
    try:
        node.measure()
    except dist.DistError as error:  # of the store
        log(f"the head node has ended, so that this one cannot tell what it has found: {one_line(error)}")
        return 1
    if allocation.rank:
        return int(bool(node.found["problems"]))
    results = {"hosts": allocation.hosts, "nodes": meeting.results(), "asked": _asked(options)}
    write_atomically(options.folder / RESULTS, json.dumps(results).encode())
    verdicts = judge(results)
    for verdict in verdicts:
        log(f"verdict of {verdict}")
    return int(any(verdict.problems for verdict in verdicts))


class Node:
    """One node of a trial, and what it finds.

    Args:
        options: The parsed command line.
        meeting: The nodes that take part.
        own: Address of this node.
    """

    def __init__(self, options: argparse.Namespace, meeting: Meeting, own: NetworkAddress) -> None:
        self.options, self.meeting = options, meeting
        self.allocation: Allocation = meeting.allocation
        self.found: dict[str, Any] = {"problems": [], "interface": own.interface, "cpus": self.allocation.cpus}

    def measure(self) -> None:
        """Measure everything in turn. A problem is noted, and the next measurement begins all the same."""
        steps: list[tuple[str, Callable[[], None]]] = [
            ("versions", self._versions),
            ("gpus", self._gpus),
            ("clock", self._clock),
            ("locks", self._locks),
            ("network", self._network),
            ("disks", self._disks),
            ("loading", self._loading),
            ("training", self._training),
        ]
        for name, step in steps:
            log(f"{name} ...")
            self.found[UNFINISHED] = name
            self.meeting.tell(self.found)
            try:
                self.meeting.together(name)
                step()
            except MeetingError as error:  # another node has died, and would be waited for again
                self._miss(name, error)
                break
            except (OSError, UserError) as error:
                self._note(name, error)
            except RuntimeError as error:
                if _is_out_of_memory(error):
                    self._note(f"{name}: this node has too little memory", error)
                elif failed_elsewhere(error):
                    self._miss(f"{name}: the connection to another node was lost", error)
                else:
                    raise
        del self.found[UNFINISHED]
        self.meeting.tell(self.found)
        with contextlib.suppress(MeetingError):
            self.meeting.leave()

    def _note(self, step: str, error: Exception) -> None:
        self.found["problems"].append(_logged(step, error))

    def _miss(self, step: str, error: Exception) -> None:
        self.found[LOST] = _logged(step, error)

    def _versions(self) -> None:
        self.found["versions"] = measures.versions()

    def _gpus(self) -> None:
        self.found |= inspect_gpus(self.allocation.gpus)
        self.meeting.store.set(f"gpus/{self.meeting.place}", str(len(self.found["gpus"])))
        if rates := [tflop_rate(torch.device("cuda", index)) for index in range(torch.cuda.device_count())]:
            self.found["gpu_tflop_s"] = min(rates)

    def _clock(self) -> None:
        """All nodes leave a step at the same moment, but for the time of a message; the head node's clock counts."""
        offsets = []
        for number in range(CLOCK_ROUNDS):
            self.meeting.together(f"clock {number}")
            now = time.time()
            if self.meeting.place == 0:
                self.meeting.store.set(f"clock/{number}", repr(now))
            offsets.append(now - float(self.meeting.store.get(f"clock/{number}")))
        self.found["clock_s"] = statistics.median(offsets)
        self.found["file_clock_s"] = measures.file_clock_offset_s(self.options.folder)

    def _locks(self) -> None:
        """The head node locks a file, which the others must not be able to lock until it is released."""
        path = self.options.folder / LOCK
        if self.meeting.place == 0:
            with _locked(path):
                self.meeting.together("locked")
                self.meeting.together("tried")
            self.found["locks"] = True
            self.meeting.together("released")
            return
        self.meeting.together("locked")
        try:
            excluded = not _can_lock(path)
        finally:
            self.meeting.together("tried")
            self.meeting.together("released")
        self.found["locks"] = excluded and _becomes_free(path)

    def _network(self) -> None:
        """Rates of all-reduce over all nodes, and of each node's link to the head node."""
        if len(self.meeting.members) == 1:
            return
        on_gpus = self._backend == "nccl"
        with self._process_group("network", "cpu:gloo,cuda:nccl" if on_gpus else "gloo"):
            gradients = torch.ones(GRADIENTS, device="cuda" if on_gpus else "cpu")
            mib = gradients.nbytes / measures.MIB
            self.found["all_reduce_mib_s"] = mib / self._seconds_each(lambda: _all_reduce(gradients))
            message = torch.ones(GRADIENTS)
            for other in range(1, len(self.meeting.members)):
                dist.barrier()
                if self.meeting.place in (0, other):
                    seconds = self._seconds_there_and_back(message, other)
                if self.meeting.place == other:
                    self.found["link_mib_s"] = mib / (seconds / 2)
            dist.barrier()

    @property
    def _backend(self) -> str:
        """NCCL if all nodes have usable GPUs: one without would leave the others waiting for it."""
        places = range(len(self.meeting.members))
        return "nccl" if all(int(self.meeting.store.get(f"gpus/{place}")) for place in places) else "gloo"

    @contextlib.contextmanager
    def _process_group(self, step: str, backend: str) -> Iterator[None]:
        """Connect all nodes within a block. One that leaves it with an error is missed by the others at once.

        Where DDP was used, gloo keeps the connections until the process ends (torch 2.14), so that a head node is
        missed only once it has waited for the others.
        """
        dist.init_process_group(
            backend,
            store=dist.PrefixStore(step, self.meeting.store),  # type: ignore[attr-defined]
            rank=self.meeting.place,
            world_size=len(self.meeting.members),
            timeout=GROUP_TIMEOUT,
        )
        try:
            yield
        finally:
            dist.destroy_process_group()

    def _seconds_there_and_back(self, message: torch.Tensor, other: int) -> float:
        """Send a message from the head node to another one and back, on both of them, and return the least seconds."""
        seconds = []
        for _ in range(3):
            start = time.perf_counter()
            if self.meeting.place == 0:
                dist.send(message, other)
                dist.recv(message, other)
            else:
                dist.recv(message, 0)
                dist.send(message, 0)
            seconds.append(time.perf_counter() - start)
        return min(seconds)

    def _seconds_each(self, call: Callable[[], None]) -> float:
        """Return the mean seconds of a collective call, repeated as often as the head node has time for."""
        call()  # connects
        start = time.perf_counter()
        call()
        count = torch.tensor([max(3, int(self.options.seconds / (time.perf_counter() - start)))])
        dist.broadcast(count, 0)
        start = time.perf_counter()
        for _ in range(int(count)):
            call()
        return (time.perf_counter() - start) / int(count)

    def _disks(self) -> None:
        self.found["shared_memory_mib"] = measures.free_gib(measures.SHARED_MEMORY) * 1024
        self.found["records_free_gib"] = measures.free_gib(self.options.records)
        if self.options.scratch:
            scratch = Path(os.path.expandvars(self.options.scratch))
            self.found["scratch_mib_s"] = measures.write_rate(scratch)
            self.found["scratch_free_gib"] = measures.free_gib(scratch)
        self.found["records_mib_s"] = measures.write_rate(self.options.folder)

    def _loading(self) -> None:
        if self.options.data:
            self.found["images_s"] = measures.loading_rate(self.options.data, self.allocation, self.options.seconds)

    def _training(self) -> None:
        """Images/s of training over all nodes, and what the model of communication predicts."""
        if len(self.meeting.members) == 1:
            return
        backend = self._backend
        with self._process_group("training", backend):
            result = measure_training(
                read_run(self.options.run, backend),
                backend=backend,
                threads=self.allocation.cpus,
                seconds=self.options.seconds,
                say=log,
            )
        [comparison] = result["comparisons"]
        for name, arrangement in (("training_images_s", comparison["name"]), ("predicted_images_s", PREDICTED)):
            self.found[name] = statistics.median(measured[SPEED] for measured in comparison["rounds"][arrangement])
        if self.meeting.place == 0:
            write_result(self.options.folder / SCALING, result)


def _logged(step: str, error: Exception) -> str:
    sentence = f"{step}: {one_line(error)}"
    log(sentence)
    return sentence


def _is_out_of_memory(error: RuntimeError) -> bool:
    """Return whether torch found no memory. For that of a CPU it has no exception of its own (torch 2.14)."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def _all_reduce(tensor: torch.Tensor) -> None:
    dist.all_reduce(tensor)
    if tensor.is_cuda:
        torch.cuda.synchronize()


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("a", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _can_lock(path: Path) -> bool:
    descriptor = try_lock(path)
    if descriptor is None:
        return False
    os.close(descriptor)
    return True


def _becomes_free(path: Path) -> bool:
    """Try for a while, since the other nodes try as well."""
    deadline = time.monotonic() + 10
    while not _can_lock(path):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def _asked(options: argparse.Namespace) -> dict[str, Any]:
    return {name: getattr(options, name) for name in ("cpus", "gpus", "object_store_mib")}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m slurm.trial.node", description="Measure this node.")
    parser.add_argument("--folder", type=Path, required=True, help="folder of the trial")
    parser.add_argument("--records", type=Path, required=True, help="folder of the records")
    parser.add_argument("--data", type=Path, help="a prepared data set to load")
    parser.add_argument("--run", type=Path, help="what every node trains, as JSON")
    parser.add_argument("--scratch", help="folder on the node's own disk")
    parser.add_argument("--interface", help="network interface")
    parser.add_argument("--object-store-mib", type=int, default=0, help="shared memory that Ray will take")
    parser.add_argument("--cpus", type=int, default=0, help="CPUs that the profile asks for")
    parser.add_argument("--gpus", type=int, default=0, help="GPUs that the profile asks for")
    parser.add_argument("--seconds", type=float, default=10.0, help="how long a measurement takes")
    return parser


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    os._exit(code)  # gloo's threads, which DDP keeps alive, may abort the interpreter's shutdown (torch 2.14)
