"""Costs of networks agree with numbers that were calculated by hand from the paper."""

import time
from typing import Any

import pytest
import torch

from reproduce.models import GoogLeNet
from reproduce.models.cost import Cost, cost
from reproduce.spec import NetworkConfig, SpecError

PLAIN: dict[str, Any] = {"norm": "none"}
PORT: dict[str, Any] = {"norm": "batch", "large_kernel": "3x3", "pooling": "port"}
TABLE1 = {  # weights without biases, millions of multiply-adds
    ("conv1",): (9_408, 118.0),
    ("conv2", "conv3"): (114_688, 359.7),
    ("inception3a",): (163_328, 128.0),
    ("inception3b",): (388_096, 304.3),
    ("inception4a",): (375_552, 73.6),
    ("inception4b",): (448_512, 87.9),
    ("inception4c",): (509_440, 99.9),
    ("inception4d",): (604_672, 118.5),
    ("inception4e",): (867_328, 170.0),
    ("inception5a",): (1_042_432, 51.1),
    ("inception5b",): (1_442_816, 70.7),
    ("fc",): (1_024_000, 1.0),
}
SHAPES = {
    "conv1.conv": (64, 112, 112),
    "maxpool1": (64, 56, 56),
    "conv2.conv": (64, 56, 56),
    "conv3.conv": (192, 56, 56),
    "maxpool2": (192, 28, 28),
    "inception3a": (256, 28, 28),
    "inception3b": (480, 28, 28),
    "maxpool3": (480, 14, 14),
    "inception4a": (512, 14, 14),
    "inception4b": (512, 14, 14),
    "inception4c": (512, 14, 14),
    "inception4d": (528, 14, 14),
    "inception4e": (832, 14, 14),
    "maxpool4": (832, 7, 7),
    "inception5a": (832, 7, 7),
    "inception5b": (1024, 7, 7),
    "avgpool": (1024, 1, 1),
    "fc": (1000, 1, 1),
    "aux1.pool": (512, 4, 4),
    "aux1.conv.conv": (128, 4, 4),
    "aux1.fc1": (1024, 1, 1),
    "aux1.fc2": (1000, 1, 1),
    "aux2.pool": (528, 4, 4),
    "aux2.conv.conv": (128, 4, 4),
    "aux2.fc1": (1024, 1, 1),
    "aux2.fc2": (1000, 1, 1),
}


def shapes(total: Cost) -> dict[str, tuple[int, int, int]]:
    return {layer.name: layer.output_shape for layer in total.layers}


@pytest.mark.parametrize(
    ("network", "training", "parameters"),
    [(PLAIN, False, 6_998_552), (PLAIN, True, 13_378_280), (PORT, False, 6_624_904), (PORT, True, 13_004_888)],
)
def test_parameters_are_exact(network: dict[str, Any], training: bool, parameters: int) -> None:
    config = NetworkConfig(**network)
    assert cost(config, training=training).parameters == parameters
    with torch.device("meta"):
        real = GoogLeNet(config if training else config.model_copy(update={"aux": "none"}))
    assert sum(parameter.numel() for parameter in real.parameters()) == parameters


def test_costs_agree_with_the_rows_of_table_1() -> None:
    total = cost(NetworkConfig(**PLAIN))
    for names, (weights, millions) in TABLE1.items():
        layers = [layer for name in names for layer in total.part(name).layers if layer.macs]
        assert sum(layer.parameters - layer.output_shape[0] for layer in layers) == weights, names
        assert sum(layer.macs for layer in layers) / 1e6 == pytest.approx(millions, abs=0.06), names
    assert total.macs == 1_582_671_872


@pytest.mark.parametrize("network", [PLAIN, PORT])
def test_shapes_at_224(network: dict[str, Any]) -> None:
    measured = shapes(cost(NetworkConfig(**network), training=True))
    assert {name: measured[name] for name in SHAPES} == SHAPES


def test_unreduced_has_the_widths_of_reduced_and_costs_more() -> None:
    reduced, unreduced = (cost(NetworkConfig(reduction=r), training=True) for r in ("reduced", "unreduced"))
    common = [layer.name for layer in reduced.layers if layer.kind == "concatenation" or "inception" not in layer.name]
    assert [shapes(unreduced)[name] for name in common] == [shapes(reduced)[name] for name in common]
    assert unreduced.macs > 2 * reduced.macs


@pytest.mark.parametrize("branches", ["1x1", "3x3", "5x5"])
@pytest.mark.parametrize(("resolution", "classes"), [(224, 1000), (32, 10)])
def test_single_kernels_have_the_multiply_adds_of_the_mixed_module(
    branches: str, resolution: int, classes: int
) -> None:
    mixed = NetworkConfig(resolution=resolution, classes=classes)
    single = mixed.model_copy(update={"branches": branches})
    assert cost(single).macs == pytest.approx(cost(mixed).macs, rel=6e-4)
    for module in ("inception3a", "inception4d", "inception5b"):  # a channel more or less is 2 to 4 % at 5x5
        assert cost(single).part(module).macs == pytest.approx(cost(mixed).part(module).macs, rel=0.04)


def test_naive_widths_grow_by_the_pooled_input() -> None:
    measured = shapes(cost(NetworkConfig(reduction="naive")))
    assert measured["inception3a"][0] == 64 + 128 + 32 + 192
    assert measured["inception3b"][0] == 128 + 192 + 96 + measured["inception3a"][0]


def test_multiply_adds_follow_the_input_and_parameters_do_not() -> None:
    config = NetworkConfig(aux="none")
    full, half = cost(config), cost(config, resolution=112)
    assert half.parameters == full.parameters
    assert half.part("conv1").macs * 4 == full.part("conv1").macs
    assert half.activation_bytes < full.activation_bytes / 3


def test_activation_bytes_are_those_of_the_outputs() -> None:
    first = cost(NetworkConfig(**PLAIN)).layers[0]
    assert (first.name, first.kind, first.activation_bytes) == ("conv1.conv", "convolution", 64 * 112 * 112 * 4)


def test_global_average_pooling_removes_most_parameters() -> None:
    pooled, connected = (cost(NetworkConfig(norm="none", head=head)).parameters for head in ("avgpool", "fc"))
    assert connected - pooled == 7 * 7 * 1024 * 1024 + 1024


def test_cost_is_quick_and_leaves_the_generator_alone() -> None:
    cost(NetworkConfig())  # torch loads what the meta device needs
    state = torch.get_rng_state()
    start = time.process_time()
    cost(NetworkConfig())
    assert time.process_time() - start < 1
    assert torch.equal(torch.get_rng_state(), state)


def test_an_input_that_is_too_small_is_refused() -> None:
    with pytest.raises(SpecError, match=r"resolution: 31 .* at least 32"):
        cost(NetworkConfig(), resolution=31)
