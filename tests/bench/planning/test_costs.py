"""The costs of a network are counted once for a version of the code; afterwards no torch is needed to plan."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench.planning import costs as module
from bench.planning.costs import are_counted, network_costs, parameter_size, state_size
from reproduce import schema
from reproduce.models import GoogLeNet
from reproduce.models.cost import cost
from reproduce.spec import NetworkConfig

NETWORK = NetworkConfig(resolution=64, classes=10)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(module, "cache", lambda: tmp_path / "deeper")
    return tmp_path / "deeper" / "costs"


def test_costs_are_those_of_the_network_and_are_kept(cache: Path) -> None:
    counted = network_costs(NETWORK)
    assert counted[schema.COST_PARAMETERS] == cost(NETWORK, training=True).parameters
    assert counted[schema.COST_PARAMETERS_INFERENCE] == cost(NETWORK).parameters
    assert counted[schema.COST_MACS] == cost(NETWORK).macs
    assert counted[schema.COST_MACS_TRAINING] == cost(NETWORK, training=True).macs
    assert network_costs(NETWORK) == counted
    assert len(list(cache.iterdir())) == 1


def test_sizes_are_those_of_the_networks_tensors(cache: Path) -> None:
    network = GoogLeNet(NETWORK)
    for found, tensors in (
        (parameter_size(NETWORK), [*network.parameters()]),
        (state_size(NETWORK), [*network.state_dict().values()]),
    ):
        assert found == (len(tensors), sum(tensor.numel() * tensor.element_size() for tensor in tensors))


def test_what_was_counted_once_needs_no_torch(cache: Path) -> None:
    counted = network_costs(NETWORK)
    code = (
        "import sys; from bench.planning.plan import network_costs; from reproduce.spec import NetworkConfig; "
        "print(network_costs(NetworkConfig(resolution=64, classes=10)) == eval(sys.argv[1]), 'torch' in sys.modules)"
    )
    environment = {**os.environ, "XDG_CACHE_HOME": str(cache.parent.parent)}
    done = subprocess.run(
        [sys.executable, "-c", code, repr(counted)], env=environment, capture_output=True, text=True, encoding="utf-8"
    )
    assert done.stdout.split() == ["True", "False"], done.stderr


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"cost/macs": 1}'])
def test_a_damaged_file_is_counted_anew(cache: Path, content: str) -> None:
    counted = network_costs(NETWORK)
    [file] = cache.iterdir()
    whole = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(content, encoding="utf-8")
    assert not are_counted([NETWORK])
    assert network_costs(NETWORK) == counted
    assert json.loads(file.read_text(encoding="utf-8")) == whole
    assert are_counted([NETWORK])


def test_other_code_counts_anew(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network_costs(NETWORK)
    monkeypatch.setattr(module, "code_hash", lambda: "0" * 12)
    network_costs(NETWORK)
    assert len(list(cache.iterdir())) == 2


def test_without_a_cache_that_can_be_written_the_costs_are_still_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr(module, "cache", lambda: tmp_path / "file")
    assert network_costs(NETWORK)[schema.COST_MACS] > 0
