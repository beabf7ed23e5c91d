from __future__ import annotations

import copy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD
from torch.profiler import ProfilerActivity, profile

from reproduce.spec import RecipeConfig
from reproduce.training.optim import parameter_groups, sgd

ROOT = Path(__file__).parents[2]
FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
RECIPE = RecipeConfig(epochs=1, batch_size=1, learning_rate=0.1, nesterov=True, weight_decay=1e-3, resolution=32)


def layer(memory_format: torch.memory_format) -> nn.Conv2d:
    torch.manual_seed(0)
    return nn.Conv2d(4, 8, 3).to(memory_format=memory_format)  # type: ignore[call-overload, no-any-return]


def gradients(memory_format: torch.memory_format) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(8, 4, 3, 3, generator=generator).to(memory_format=memory_format) for _ in range(3)]


@pytest.mark.parametrize("of_gradient", FORMATS.values(), ids=list(FORMATS))
@pytest.mark.parametrize("of_weight", FORMATS.values(), ids=list(FORMATS))
def test_steps_are_those_of_plain_sgd_in_every_memory_format(
    of_weight: torch.memory_format, of_gradient: torch.memory_format
) -> None:
    ours, plain = layer(of_weight), layer(torch.contiguous_format)
    optimiser = sgd(ours, RECIPE)
    reference = SGD(plain.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-3)
    for gradient in gradients(of_gradient):
        for network in (ours, plain):
            network.weight.grad = gradient.clone()
            network.bias.grad = torch.ones_like(network.bias)
        optimiser.step()
        reference.step()
    torch.testing.assert_close(ours.weight, plain.weight, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(ours.bias, plain.bias, rtol=1e-6, atol=1e-6)


def test_a_momentum_of_another_memory_format_is_taken_on() -> None:
    network = layer(torch.channels_last)
    first, second = gradients(torch.channels_last)[:2]
    optimiser = sgd(network, RECIPE)
    network.weight.grad = first
    optimiser.step()
    saved = optimiser.state_dict()
    momentum = saved["state"][0]["momentum_buffer"]
    results = []
    for memory_format in FORMATS.values():
        twin = layer(torch.channels_last)
        resumed = sgd(twin, RECIPE)
        saved["state"][0]["momentum_buffer"] = momentum.clone(memory_format=memory_format)
        resumed.load_state_dict(saved)
        twin.weight.grad = second.clone()
        resumed.step()
        results.append(twin.weight.detach())
    assert torch.equal(*results)


def test_no_gradient_is_copied() -> None:
    network = layer(torch.channels_last)
    optimiser = sgd(network, RECIPE)
    network.weight.grad = gradients(torch.channels_last)[0]
    optimiser.step()
    with profile(activities=[ProfilerActivity.CPU]) as recorded:
        optimiser.step()
    names = {event.key for event in recorded.key_averages()}
    assert "aten::_fused_sgd_" in names
    assert "aten::copy_" not in names


def test_steps_and_states_are_those_of_torch_to_the_last_bit() -> None:
    recipe = RecipeConfig(epochs=1, batch_size=1, learning_rate=0.1, weight_decay=0.01, decay_norm_and_bias=False)
    network = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2))
    copied = copy.deepcopy(network)
    ours = sgd(network, recipe)
    theirs = SGD(parameter_groups(copied, recipe), lr=0.1, momentum=recipe.momentum, fused=True)
    for _ in range(3):
        images = torch.randn(4, 3)
        for net, optimiser in ((network, ours), (copied, theirs)):
            optimiser.zero_grad(set_to_none=True)
            net(images).square().mean().backward()
            optimiser.step()
        assert all(torch.equal(a, b) for a, b in zip(network.parameters(), copied.parameters(), strict=True))
        assert repr(ours.state_dict()) == repr(theirs.state_dict())
        ours.load_state_dict(copy.deepcopy(theirs.state_dict()))


def test_a_step_does_not_import_the_compiler() -> None:
    code = """
import sys, torch
from reproduce.spec import RecipeConfig
from reproduce.training.optim import sgd
network = torch.nn.Linear(3, 2)
optimiser = sgd(network, RecipeConfig(epochs=1, batch_size=1, learning_rate=0.1))
network(torch.ones(1, 3)).sum().backward()
optimiser.step()
optimiser.zero_grad()
optimiser.load_state_dict(optimiser.state_dict())
sys.exit("torch._dynamo" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
