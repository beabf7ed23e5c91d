"""Measures what Ray costs on a head node with and without monitors that a job does not use, into ray-start.json.

    PYTHONPATH=. python results/slurm/ray_start.py [--times 4]

Both take turns on this machine. It takes some three minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil

from bench.results.store import with_provenance
from reproduce.files.temporary_folders import temporary_folder
from slurm.job.node.allocation import Allocation
from slurm.job.node.network import NetworkAddress
from slurm.job.node.ray_node import LONGEST_FOLDER, ray_command, start_ray_process

HERE = Path(__file__).parent
UNUSED = ("--include-log-monitor=false", "--no-monitor")
AFTER_S = 8.0
"""Seconds from when Ray is up until the CPU time of its processes is read: those of the monitors start last."""


def start(with_monitors: bool) -> dict[str, float]:
    """Start Ray once: the seconds until it is up, the CPU seconds of its processes, their number, and the load."""
    load = os.getloadavg()[0]
    allocation = Allocation("1", "1", 0, rank=0, hosts=("n1",), cpus=2, gpus=0, memory_bytes=None)
    own = NetworkAddress("127.0.0.1", "lo")
    private = temporary_folder("deeper-start-", longest=LONGEST_FOLDER, parents=("/tmp",))
    command = ray_command(allocation, own, head_address=None, object_store_mib=128, folder=private.path / "ray")
    began = time.monotonic()
    ray = start_ray_process([word for word in command if not (with_monitors and word in UNUSED)], "lo", private)
    try:
        ray.wait_until_up()
        up_s = time.monotonic() - began
        time.sleep(AFTER_S)
        family = [psutil.Process(ray.process.pid), *psutil.Process(ray.process.pid).children(recursive=True)]
        cpu_s = sum(sum(one.cpu_times()[:2]) for one in family)
    finally:
        ray.kill()
    return {"up_s": round(up_s, 2), "cpu_s": round(cpu_s, 2), "processes": len(family), "load": round(load, 1)}


def tables(measured: Mapping[str, Any]) -> str:
    """Return the table of the page, in Markdown."""
    lines = ["| Ray's head node | n | until it is up, s | CPU seconds | processes |", "|---|--:|--:|--:|--:|"]
    for name in ("with the monitors", "without"):
        starts = measured["starts"][name]
        cells = []
        for field in ("up_s", "cpu_s"):
            values = [one[field] for one in starts]
            cells.append(f"{statistics.median(values):.1f} ({min(values):.1f} to {max(values):.1f})")
        lines.append(f"| {name} | {len(starts)} | {' | '.join(cells)} | {starts[0]['processes']} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--times", type=int, default=4, help="starts of each")
    parser.add_argument("--out", type=Path, default=HERE / "ray-start.json")
    options = parser.parse_args()
    starts: dict[str, list[dict[str, float]]] = {"with the monitors": [], "without": []}
    for turn in range(options.times):
        for name in reversed(starts) if turn % 2 else starts:
            starts[name].append(start(name == "with the monitors"))
            print(name, json.dumps(starts[name][-1]), file=sys.stderr)
    content = {"command": f"python results/slurm/ray_start.py --times {options.times}", "starts": starts}
    options.out.write_text(json.dumps(with_provenance("ray-start", content), indent=1) + "\n", encoding="utf-8")
    print(tables(content))


if __name__ == "__main__":
    main()
