"""Judges what the nodes of a trial have found: one verdict for each node."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from bench.planning.rates import ACROSS_NODES

RESULTS = "results.json"
"""File in a trial's folder: the nodes' names, what each has found, and what the profile asks for."""
SCALING = f"{ACROSS_NODES}.json"
"""File in a trial's folder: the result of training over the nodes, if there are several."""
UNFINISHED = "unfinished"
"""What a node hands over at the beginning of a step: its name, which stays if the node does not come through it."""
LOST = "lost"
"""What a node hands over if another one was lost in the middle of a step: a sentence about it."""
CLOCK_S = 2.0
SLOW = 0.5
"""A rate below this share of the median of all nodes is slow."""
LEAST_FREE_GIB = 1.0
RATES = {
    "link_mib_s": "MiB/s to the head node",
    "records_mib_s": "MiB/s written to the records",
    "scratch_mib_s": "MiB/s written to scratch",
    "images_s": "images/s loaded",
    "gpu_tflop_s": "TFLOP/s on its slowest GPU",
}


@dataclass(frozen=True)
class Verdict:
    """What is to be thought of a node."""

    host: str
    """Name of the node."""
    problems: tuple[str, ...]
    """What keeps jobs from running there as they should."""
    remarks: tuple[str, ...]
    """What is slower there or other than elsewhere."""
    found: Mapping[str, Any]
    """What was measured; empty if the node took no part."""

    @property
    def word(self) -> Literal["ok", "slow", "unfit"]:
        """The verdict in one word."""
        return "unfit" if self.problems else "slow" if self.remarks else "ok"

    def __str__(self) -> str:
        return f"{self.host}: {self.word}" + "".join(f"; {said}" for said in (*self.problems, *self.remarks))


def judge(results: Mapping[str, Any], expected: Mapping[str, str] | None = None) -> list[Verdict]:
    """Judge every node of a trial.

    Args:
        results: The content of the file `RESULTS`.
        expected: Versions that the nodes should have, those of the machine that submits. None for the commonest.

    Returns:
        A verdict for each node of the job, in the job's order.
    """
    nodes: Mapping[str, Mapping[str, Any]] = results["nodes"]
    explained = any(
        host not in nodes or UNFINISHED in nodes[host] or nodes[host]["problems"] for host in results["hosts"]
    )
    return [
        Verdict(
            host,
            tuple(_problems(nodes[host], results["asked"], expected or _commonest(nodes), explained)),
            tuple(_remarks(nodes[host], nodes)),
            nodes[host],
        )
        if host in nodes
        else Verdict(host, ("it took no part; its own messages are in the job's log",), (), {})
        for host in results["hosts"]
    ]


def _problems(
    found: Mapping[str, Any], asked: Mapping[str, int], expected: Mapping[str, str], explained: bool
) -> Iterator[str]:
    """Yield the problems of a node. `explained` says whether some node has a problem for which others may lose it."""
    yield from found["problems"]
    if UNFINISHED in found:
        step = found[UNFINISHED]
        yield f"it ended in the step {step!r} or waits there for another node; its own messages are in the job's log"
    for name, value in found.get("versions", {}).items():
        if value != expected.get(name, value):
            yield f"{name} is {value}, and {expected[name]} elsewhere"
    for name, against in (("clock_s", "the head node's"), ("file_clock_s", "that of the shared file system")):
        if abs(found.get(name, 0.0)) > CLOCK_S:
            yield f"its clock is {found[name]:+.1f} s off {against}"
    if found.get("locks") is False:
        yield "a file that another node has locked is not locked here, so that two jobs could do one run"
    if found["cpus"] < asked["cpus"]:
        yield f"it has {found['cpus']} CPUs, and the profile asks for {asked['cpus']}"
    yield from _problems_of_gpus(found, asked["gpus"])
    if found.get("shared_memory_mib", asked["object_store_mib"]) < asked["object_store_mib"]:
        yield f"/dev/shm has {found['shared_memory_mib']:.0f} MiB free, and Ray takes {asked['object_store_mib']}"
    for name in ("records", "scratch"):
        if found.get(f"{name}_free_gib", LEAST_FREE_GIB) < LEAST_FREE_GIB:
            yield f"the disk of {name} has {found[f'{name}_free_gib']:.1f} GiB free"
    if LOST in found and not explained:
        yield found[LOST]


def _problems_of_gpus(found: Mapping[str, Any], asked: int) -> Iterator[str]:
    granted, seen = found.get("granted_gpus", asked), len(found.get("gpus", ()))
    if granted < asked:
        yield f"SLURM grants {granted} GPUs, and the profile asks for {asked}"
    if seen < granted:
        why = f": {found['gpus_absent']}" if "gpus_absent" in found else ""
        yield f"torch sees {seen} of the {granted} GPUs that SLURM grants{why}"


def _remarks_on_gpus(found: Mapping[str, Any], nodes: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    for sentence in found.get("devices_absent", ()):
        yield f"telemetry lacks a GPU: {sentence}"
    for gpu in found.get("occupied", ()):
        yield f"{gpu['processes']} processes already compute on {gpu['uuid']}, with {gpu['memory_gib']:.0f} GiB in use"
    kinds = Counter(tuple(sorted(set(other["gpus"]))) for other in nodes.values() if other.get("gpus"))
    if found.get("gpus") and (own := tuple(sorted(set(found["gpus"])))) != (common := kinds.most_common(1)[0][0]):
        yield f"its GPUs are {', '.join(own)}, and {', '.join(common)} elsewhere"


def _remarks(found: Mapping[str, Any], nodes: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    for name, unit in RATES.items():
        rates = [other[name] for other in nodes.values() if name in other]
        if name in found and found[name] < SLOW * statistics.median(rates):
            yield f"{found[name]:.0f} {unit}, where the median is {statistics.median(rates):.0f}"
    yield from _remarks_on_gpus(found, nodes)


def _commonest(nodes: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """The commonest value of each version; of two that are as common, that of the earlier node."""
    values: dict[str, Counter[str]] = {}
    for found in nodes.values():
        for name, value in found.get("versions", {}).items():
            values.setdefault(name, Counter())[value] += 1
    return {name: counted.most_common(1)[0][0] for name, counted in values.items()}
