"""One node of a trial: a measurement for which it lacks something is noted, and the others are made all the same."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from slurm.job.node.allocation import Allocation
from slurm.job.node.network import NetworkAddress
from slurm.trial.meeting import Meeting
from slurm.trial.node import Node
from slurm.trial.verdicts import UNFINISHED


class Greedy(Node):
    """Measures the disks with more memory than there is."""

    def _disks(self) -> None:
        torch.empty(2**50, dtype=torch.uint8)


def test_a_measurement_that_finds_no_memory_is_noted_and_the_others_are_handed_over(tmp_path: Path) -> None:
    allocation = Allocation(job="1", queue_id="1", restarts=0, rank=0, hosts=("n1",), cpus=1, gpus=0, memory_bytes=None)
    meeting = Meeting(TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False), allocation, [0])
    options = argparse.Namespace(folder=tmp_path, records=tmp_path, data=None, run=None, scratch=None, seconds=1.0)
    Greedy(options, meeting, NetworkAddress("127.0.0.1", "lo")).measure()
    found = meeting.results()["n1"]
    [problem] = found["problems"]
    assert problem.startswith("disks: this node has too little memory: ")
    assert "1125899906842624 bytes" in problem
    assert found["locks"] is True
    assert UNFINISHED not in found
