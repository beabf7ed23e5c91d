"""Where a real Ray cluster of two kinds of machine places the workers of a run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import ray
from ray.cluster_utils import Cluster

from bench.machine.computation import machine_kind
from bench.orchestration import cluster, worker_group
from bench.orchestration.cluster import KindsOfNodes
from bench.orchestration.worker_group import WorkerGroup
from reproduce.spec import ResourcesConfig

PATIENCE_S = 900.0
"""Seconds for nodes to answer and to become free: on busy cores, the import of torch alone can take over a minute."""
LIMIT = "AVX2"
"""What oneDNN may use at most on the second node, which makes it another kind of machine."""


@pytest.fixture
def two_kinds(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, str]]:
    """Ray's ids of two nodes with a CPU each, the second of another kind."""
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    nodes_of_test: Any = Cluster()
    nodes = [nodes_of_test.add_node(num_cpus=1, env_vars=more) for more in ({}, {"ONEDNN_MAX_CPU_ISA": LIMIT})]
    ray.init(address=nodes_of_test.address, log_to_driver=False)
    try:
        yield nodes[0].node_id, nodes[1].node_id
    finally:
        ray.shutdown()
        nodes_of_test.shutdown()


def test_workers_are_placed_on_the_kind_of_machine_that_is_asked_for_and_elsewhere_if_it_is_busy(
    two_kinds: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "KIND_TIMEOUT_S", PATIENCE_S)
    monkeypatch.setattr(worker_group, "PREFERENCE_S", PATIENCE_S)
    kinds, here = KindsOfNodes(gpu=False), machine_kind(gpu=False)
    other = f"{here}, oneDNN at most {LIMIT}"
    assert [kinds(here), kinds(other), kinds("amd avx")] == [[two_kinds[0]], [two_kinds[1]], []]
    group = WorkerGroup.start(ResourcesConfig(), nodes=kinds(other))
    assert group.computation is not None
    assert group.computation.machine == other
    monkeypatch.setattr(worker_group, "PREFERENCE_S", 1.0)
    second = WorkerGroup.start(ResourcesConfig(), nodes=kinds(other))
    assert second.computation is not None
    assert second.computation.machine == here, "the node was busy"
    for started in (group, second):
        started.kill()
