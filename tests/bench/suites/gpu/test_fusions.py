"""The arithmetic of fused kernels: passes over maps, sums, and the committed tables."""

from __future__ import annotations

import math

import pytest

from bench.suites.gpu import fusions
from bench.suites.step.inputs import port_network
from reproduce.models.cost import Cost, cost


@pytest.fixture(scope="module")
def costs() -> Cost:
    return cost(port_network(fusions.SIDE), training=True)


def test_the_document_has_the_tables_that_the_code_computes() -> None:
    text = fusions.DOCUMENT.read_text(encoding="utf-8")
    assert fusions.filled(text) == text


def test_a_pool_and_a_normalisation_move_what_their_passes_say(costs: Cost) -> None:
    norm, pool = (next(layer for layer in costs.layers if layer.kind == kind) for kind in ("norm", "max pool"))
    source, pooled = 112 * 112 * 64, 56 * 56 * 64
    assert (norm.name, pool.name) == ("conv1.bn", "maxpool1")
    assert fusions.norm_traffic(norm) == fusions.Traffic(13 * 2 * source, 8 * 2 * source)
    assert fusions.pool_traffic(pool) == fusions.Traffic(8 * source + 20 * pooled, 4 * source + 6 * pooled)


def test_parts_and_places_are_two_sums_of_the_same_traffic(costs: Cost) -> None:
    parts, places = fusions.parts(costs), fusions.places(costs)
    memory = {name: times for name, times in parts.items() if name not in (fusions.PRODUCT, fusions.PIXELS)}
    for index, kind in enumerate(("torch", "fused")):
        moved = sum(getattr(traffic, kind) for place in places for traffic in (place.norm, place.pool, place.other))
        expected = 1e3 * fusions.BATCH * moved / fusions.CEILING.bytes_per_s
        assert math.isclose(sum(times[index] for times in memory.values()), expected)
    assert sum(place.flops for place in places) == 6 * costs.macs
    assert all(fused <= before for before, fused in parts.values())
