"""One of two ranks, each in its own process: trains a run without interruption, and one that is stopped once.

Usage: two_ranks.py RANK FOLDER DATA_ROOT
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch.distributed as dist
from tiny import Recorder, StopAt, rank_setup, tiny_run

from reproduce.execution.ranks import leave_process_group
from reproduce.training.interface import SilentObserver
from reproduce.training.loop import train


def main(rank: int, folder: Path, data_root: Path) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    run = tiny_run(workers=2, epochs=1)
    stop = StopAt(3) if rank == 1 else StopAt()  # the rank that writes no checkpoint is stopped
    finished = []
    for name, request in (("whole", StopAt()), ("broken", stop), ("broken", stop)):
        recorder = Recorder(folder / name)
        setup = rank_setup(folder / name, data_root, request, rank, 2)
        finished.append(train(run, setup, recorder if rank == 0 else SilentObserver()).finished)
        if rank == 0 and finished[-1]:
            assert recorder.table["index"].tolist() == list(range(15))
    assert finished == [True, False, True]
    leave_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]))
