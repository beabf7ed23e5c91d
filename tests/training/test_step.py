from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tiny import tiny_run
from torch import nn

from reproduce.execution.process import prepare_process
from reproduce.models import GoogLeNet, Outputs
from reproduce.models.compiled import compile_parts
from reproduce.models.folding import folded
from reproduce.spec import NetworkConfig, RecipeConfig
from reproduce.training import step as step_module
from reproduce.training.averaging import WeightAverage
from reproduce.training.optim import parameter_groups
from reproduce.training.step import build_step, losses


def test_auxiliary_losses_are_added_with_their_weight_and_smoothed_like_the_main_one() -> None:
    logits, labels = torch.randn(3, 4, 5), torch.tensor([0, 1, 2, 3])
    found = losses(Outputs(*logits), labels, aux_weight=0.25, label_smoothing=0.1)
    main, aux1, aux2 = (F.cross_entropy(part, labels, label_smoothing=0.1) for part in logits)
    torch.testing.assert_close(found.total, main + 0.25 * (aux1 + aux2))
    torch.testing.assert_close((found.main, found.aux1, found.aux2), (main, aux1, aux2))


def test_a_network_without_auxiliary_classifiers_has_the_main_loss_alone() -> None:
    found = losses(Outputs(torch.randn(4, 5), None, None), torch.zeros(4).long(), aux_weight=0.3, label_smoothing=0)
    assert found.total is found.main
    assert found.aux1 is None
    assert found.aux2 is None


@pytest.mark.parametrize("spared", [True, False])
def test_weight_decay_leaves_out_norms_and_biases_on_request(spared: bool) -> None:
    network = GoogLeNet(NetworkConfig(classes=3, resolution=32))
    recipe = RecipeConfig(epochs=1, batch_size=1, learning_rate=1, weight_decay=0.5, decay_norm_and_bias=not spared)
    decay = {id(p): group["weight_decay"] for group in parameter_groups(network, recipe) for p in group["params"]}
    assert len(decay) == len(list(network.parameters()))
    for module in network.modules():
        for name, parameter in module.named_parameters(recurse=False):
            sparable = isinstance(module, nn.BatchNorm2d) or name == "bias"
            assert decay[id(parameter)] == (0 if spared and sparable else 0.5)


def test_a_step_changes_every_parameter_and_a_warm_up_none() -> None:
    step = build_step(tiny_run(), device=torch.device("cpu"))
    images = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)
    labels = torch.tensor([0, 1, 2, 0])
    before = {name: value.clone() for name, value in step.network.state_dict().items()}
    generator = torch.get_rng_state()
    step.warm_up(images, labels)
    assert all(torch.equal(value, before[name]) for name, value in step.network.state_dict().items())
    assert torch.equal(torch.get_rng_state(), generator)
    step(images, labels, 0.1)
    assert all(not torch.equal(value, before[name]) for name, value in step.network.named_parameters())


def test_every_part_is_compiled_once_and_computes_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    graphs = []

    def backend(graph: torch.fx.GraphModule, _: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    monkeypatch.setattr(step_module, "compile_parts", partial(compile_parts, backend=backend))
    images, labels = torch.randn(4, 3, 32, 32), torch.tensor([0, 1, 2, 0])
    run = tiny_run(precision="float32")
    run = run.model_copy(update={"network": run.network.model_copy(update={"dropout": 0.0, "aux_dropout": 0.0})})
    plain, compiled = (build_step(run, device=torch.device("cpu"), compiled=form) for form in (False, True))
    for _ in range(2):
        expected, found = (step(images, labels, 0.01) for step in (plain, compiled))
        torch.testing.assert_close(found.logits, expected.logits, rtol=1e-3, atol=1e-3)
    assert len(graphs) == 12  # three convolutions and nine modules; a ninth form of one code object among them
    assert list(compiled.network.state_dict()) == list(plain.network.state_dict())
    folded(compiled.network)(images)  # as validation does
    assert len(graphs) == 12


def test_a_deterministic_run_keeps_the_compiler_from_timing_kernels() -> None:
    for deterministic in (True, False):
        prepare_process(torch.device("cpu"), threads=1, deterministic=deterministic)
        compile_parts(torch.nn.Sequential())
        assert torch._inductor.config.deterministic == deterministic


def test_the_initialisation_seed_alone_determines_the_first_weights() -> None:
    run = tiny_run()

    def weights(**seeds: int) -> torch.Tensor:
        other = run.model_copy(update={"seeds": run.seeds.model_copy(update=seeds)})
        return build_step(other, device=torch.device("cpu")).network.fc.weight

    assert torch.equal(weights(), weights(order=7, augmentation=8))
    assert not torch.equal(weights(), weights(initialisation=9))


class Tiny(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.norm = nn.BatchNorm1d(1)


def moved(average: WeightAverage, network: Tiny, values: list[float]) -> None:
    for value in values:
        network.weight.data.fill_(value)
        network.norm.running_mean.fill_(-value)
        average.update()


def test_polyak_is_the_mean_over_all_steps_statistics_included() -> None:
    network = Tiny()
    average = WeightAverage(network, "polyak", 0.9)
    moved(average, network, [1, 2, 6])
    assert average.network.weight.item() == pytest.approx(3)
    assert average.network.norm.running_mean.item() == pytest.approx(-3)


def test_ema_decays_by_its_ramp_and_then_by_the_recipes_decay() -> None:
    network = Tiny()
    average = WeightAverage(network, "ema", 0.15)
    moved(average, network, [1, 2])
    first = 0.9 * 1  # decay 1/10
    assert average.network.weight.item() == pytest.approx(0.15 * first + 0.85 * 2)  # the ramp's 2/11 is above 0.15


def test_an_average_continues_from_its_state() -> None:
    network = Tiny()
    one, other = WeightAverage(network, "polyak", 0.9), WeightAverage(network, "polyak", 0.9)
    moved(one, network, [1, 2])
    other.load_state_dict(one.state_dict())
    moved(other, network, [6])
    assert other.network.weight.item() == pytest.approx(3)
