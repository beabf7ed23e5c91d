"""Lets the nodes of a trial meet, wait for each other, and hand their results to the head node.

They share a store of torch, which the head node's process holds, and not files: one that cannot write the shared
folder has to be able to say so.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import time
from pathlib import Path
from typing import Any

from torch.distributed import TCPStore  # type: ignore[attr-defined]

from reproduce.files.atomic import PRIVATE, write_atomically
from slurm.job.node.allocation import Allocation

ADDRESS = "store.json"
MEETING_TIMEOUT_S = 120.0  # for a node to import torch from a cold file system
STEP_TIMEOUT_S = 120.0  # for the slowest node to end a measurement
POLL_S = 0.1


class MeetingError(RuntimeError):
    """Raised if the head node, or another node in the middle of a step, does not come."""


class Meeting:
    """The nodes that take part in a trial.

    Args:
        store: The store that all nodes share.
        allocation: What SLURM granted on this node.
        members: Ranks of the nodes that take part, in order.
    """

    def __init__(self, store: TCPStore, allocation: Allocation, members: list[int]) -> None:
        self.store, self.allocation, self.members = store, allocation, members

    @property
    def place(self) -> int:
        """Place of this node among the members; 0 for the head node."""
        return self.members.index(self.allocation.rank)

    def together(self, step: str) -> None:
        """Wait until all members have come to a step.

        Raises:
            MeetingError: One does not.
        """
        self.store.add(f"step/{step}", 1)
        deadline = time.monotonic() + STEP_TIMEOUT_S
        while self.store.add(f"step/{step}", 0) < len(self.members):
            if time.monotonic() > deadline:
                raise MeetingError(f"not all nodes came to the step {step!r} within {STEP_TIMEOUT_S:.0f} s")
            time.sleep(POLL_S / 10)

    def leave(self) -> None:
        """Leave the meeting. The head node's process, which holds the store, waits for the others.

        Raises:
            MeetingError: One of them does not leave.
        """
        if self.place == 0:
            self.together("end")
        else:
            self.store.add("step/end", 1)

    def tell(self, result: dict[str, Any]) -> None:
        """Hand over what this node has found so far."""
        self.store.set(f"result/{self.allocation.rank}", json.dumps(result))

    def results(self) -> dict[str, dict[str, Any]]:
        """Return what each node has handed over last, by its name; nodes that have not are absent."""
        return {
            host: json.loads(self.store.get(f"result/{rank}"))
            for rank, host in enumerate(self.allocation.hosts)
            if self.store.check([f"result/{rank}"])
        }


def meet(folder: Path, address: str, allocation: Allocation) -> Meeting:
    """Wait until the nodes of the job have come, or the time is up.

    Args:
        folder: The trial's folder, in which the head node leaves its address.
        address: IPv4 address of this node.
        allocation: What SLURM granted on this node.

    Raises:
        MeetingError: The head node does not come, or goes on without this node.
        OSError: The head node cannot write the folder.
    """
    timeout = datetime.timedelta(seconds=MEETING_TIMEOUT_S)
    if allocation.rank == 0:
        store = TCPStore(address, 0, is_master=True, wait_for_workers=False, timeout=timeout)
        place: dict[str, Any] = {"host": address, "port": store.port}
        write_atomically(folder / ADDRESS, json.dumps(place).encode(), mode=PRIVATE)
    else:
        place = _address(folder / ADDRESS)
        store = TCPStore(place["host"], place["port"], is_master=False, wait_for_workers=False, timeout=timeout)
    store.set(f"here/{allocation.rank}", "")
    if allocation.rank == 0:
        deadline = time.monotonic() + MEETING_TIMEOUT_S
        ranks = range(len(allocation.hosts))
        while time.monotonic() < deadline and not all(store.check([f"here/{rank}"]) for rank in ranks):
            time.sleep(POLL_S)
        store.set("members", json.dumps([rank for rank in ranks if store.check([f"here/{rank}"])]))
    store.wait(["members"], 2 * timeout)
    members = json.loads(store.get("members"))
    if allocation.rank not in members:
        raise MeetingError(f"the head node has gone on without this one after {MEETING_TIMEOUT_S:.0f} s")
    return Meeting(store, allocation, members)


def _address(file: Path) -> dict[str, Any]:
    deadline = time.monotonic() + MEETING_TIMEOUT_S
    while time.monotonic() < deadline:
        with contextlib.suppress(FileNotFoundError):
            os.listdir(file.parent)  # makes an NFS client ask again
            return dict(json.loads(file.read_bytes()))
        time.sleep(POLL_S)
    raise MeetingError(f"the head node's address, {file}, is not there after {MEETING_TIMEOUT_S:.0f} s")
