"""Bounds of the roofline agree with numbers that were calculated by hand."""

from __future__ import annotations

import pytest

from reproduce.models.cost import Cost, LayerCost, cost
from reproduce.models.roofline import Ceiling, roofline, seconds_per_image
from reproduce.spec import NetworkConfig

CEILING = Ceiling(flops_per_s=1000, bytes_per_s=100)
CONVOLUTION = LayerCost(
    name="conv",
    kind="convolution",
    input_elements=10,
    output_shape=(5, 2, 2),
    parameters=40,
    macs=3000,
    activation_bytes=80,
)
NORM = LayerCost(
    name="norm",
    kind="norm",
    input_elements=20,
    output_shape=(5, 2, 2),
    parameters=10,
    macs=0,
    activation_bytes=80,
)
POOL = LayerCost(
    name="pool",
    kind="max pool",
    input_elements=20,
    output_shape=(5, 1, 1),
    parameters=0,
    macs=0,
    activation_bytes=20,
)


def test_evaluation_counts_the_slower_of_arithmetic_and_memory_and_no_normalisation() -> None:
    conv, pool = roofline(Cost((CONVOLUTION, NORM, POOL)), CEILING, batch=4, training=False, element_bytes=2)
    assert (conv.name, conv.seconds, conv.limit) == ("conv", pytest.approx(6.0), "arithmetic")  # memory: 80 bytes, 0.8
    assert (pool.name, pool.seconds, pool.limit) == ("pool", pytest.approx(0.5), "memory")  # 25 elements of 2 bytes
    assert seconds_per_image((conv, pool)) == pytest.approx(6.5)


def test_training_adds_backward_with_twice_the_arithmetic_and_the_update() -> None:
    conv, norm, pool = roofline(Cost((CONVOLUTION, NORM, POOL)), CEILING, batch=4, training=True, element_bytes=2)
    assert conv.seconds == pytest.approx(18.0)
    # Forward 2 * (40 + 10 / 4) bytes; backward 2 * (20 + 20 + 20), and 24 bytes of each parameter a batch.
    assert norm.seconds == pytest.approx((85 + 120 + 24 * 10 / 4) / 100)
    assert pool.seconds == pytest.approx((50 + 50) / 100)


def test_with_a_fast_memory_only_the_arithmetic_counts() -> None:
    network = cost(NetworkConfig(), training=True)
    endless = Ceiling(flops_per_s=1e12, bytes_per_s=1e30)
    bounds = roofline(network, endless, batch=32, training=True, element_bytes=2)
    assert seconds_per_image(bounds) == pytest.approx(3 * 2 * network.macs / 1e12)


def test_every_layer_reads_what_the_layer_before_it_wrote() -> None:
    layers = {layer.name: layer for layer in cost(NetworkConfig(), training=False).layers}
    assert layers["conv1.conv"].input_elements == 3 * 224 * 224
    assert layers["inception3a.branch2.0.conv"].input_elements == 192 * 28 * 28
    assert layers["inception3a"].input_elements == 256 * 28 * 28
    assert layers["fc"].input_elements == 1024
