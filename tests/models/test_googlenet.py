import os
import subprocess
import sys

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reproduce.models import STAGES, GoogLeNet, stage_parameters
from reproduce.models.auxiliary import AuxiliaryPool
from reproduce.models.inception import Conv2d, Inception, Widths
from reproduce.spec import NetworkConfig

BACKWARD_IN_BF16 = """
import torch

from reproduce.models.inception import Conv2d

for _ in range(3):
    leftovers = [torch.full((5_000_000,), 1e30) for _ in range(3)]
    del leftovers
    layer = Conv2d(832, 128, 5, padding=2, bias=False)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        layer(torch.randn(32, 832, 1, 1)).float().square().sum().backward()
    layer.weight.grad[:, :, 2, 2] = 0
    print(float(layer.weight.grad.abs().max()))
"""

REDUCTIONS = ("reduced", "unreduced", "naive")


def images(side: int, number: int = 2) -> Tensor:
    return torch.randn(number, 3, side, side, generator=torch.Generator().manual_seed(1))


def small(**changes: object) -> NetworkConfig:
    return NetworkConfig.model_validate({"classes": 7, "resolution": 32, **changes})


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("side", [1, 2, 5, 8])
def test_branches_agree_in_height_and_width(reduction: str, side: int) -> None:
    module = Inception(6, Widths(1, 2, 3, 4, 5, 7), small(reduction=reduction, norm="none"))
    assert module(torch.randn(1, 6, side, side)).shape == (1, module.out_channels, side, side)
    assert module.out_channels == (1 + 3 + 5 + 6 if reduction == "naive" else 1 + 3 + 5 + 7)


@pytest.mark.parametrize("size", [(1, 1), (1, 4), (2, 1), (3, 2), (4, 5)])
@pytest.mark.parametrize("kernel", [1, 3, 5, 7])
def test_taps_that_see_only_padding_change_no_output_and_have_no_gradient(kernel: int, size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    ours = Conv2d(3, 4, kernel, padding=kernel // 2).double()
    theirs = nn.Conv2d(3, 4, kernel, padding=kernel // 2).double()
    theirs.load_state_dict(ours.state_dict())
    maps = torch.randn(2, 3, *size, dtype=torch.float64)
    outputs = [layer(maps) for layer in (ours, theirs)]
    for output in outputs:
        output.square().sum().backward()
    torch.testing.assert_close(*outputs)
    torch.testing.assert_close(ours.weight.grad, theirs.weight.grad)


def test_no_memory_that_nobody_has_written_becomes_a_gradient_in_bf16() -> None:
    """oneDNN's AVX-512 kernels left such memory. A CPU that has other kernels, too, is told to use these."""
    done = subprocess.run(
        [sys.executable, "-c", BACKWARD_IN_BF16],
        env={**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX512_CORE_BF16"},
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=True,
    )
    assert done.stdout.split() == ["0.0"] * 3


@pytest.mark.parametrize("kernel", ["1x1", "3x3", "5x5"])
def test_a_single_kernel_replaces_three_at_their_width(kernel: str) -> None:
    module = Inception(6, Widths(1, 2, 3, 4, 5, 7), small(branches=kernel, norm="none"))
    assert module(torch.randn(1, 6, 5, 5)).shape == (1, 1 + 3 + 5 + 7, 5, 5)
    assert module.branch_channels == (9, 7)
    kernels = [layer.kernel_size for layer in module.modules() if isinstance(layer, nn.Conv2d)]
    assert kernels == [(1, 1), (int(kernel[0]),) * 2, (1, 1)]  # its reduction, itself, the pool projection


@pytest.mark.parametrize("norm", ["none", "batch"])
@pytest.mark.parametrize("head", ["avgpool", "fc"])
@pytest.mark.parametrize("large_kernel", ["3x3", "5x5"])
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_every_network_of_the_family_computes_logits(norm: str, head: str, large_kernel: str, reduction: str) -> None:
    config = small(norm=norm, head=head, large_kernel=large_kernel, reduction=reduction)
    with torch.device("meta"):
        outputs = GoogLeNet(config)(torch.empty(2, 3, 32, 32))
    assert all(logits.shape == (2, 7) for logits in outputs)


@pytest.mark.parametrize(
    "changes",
    [{"norm": "none"}, {"head": "fc", "pooling": "port"}, {"reduction": "unreduced"}, {"branches": "3x3"}],
)
def test_every_parameter_gets_a_finite_gradient(changes: dict[str, str]) -> None:
    torch.manual_seed(0)
    network = GoogLeNet(small(resolution=64, **changes))
    sum(F.cross_entropy(logits, torch.tensor([1, 2])) for logits in network(images(64))).backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


@pytest.mark.parametrize("head", ["avgpool", "fc"])
@pytest.mark.parametrize("pooling", ["paper", "port"])
def test_inputs_from_32_pixels_are_accepted_whatever_the_nominal_size(head: str, pooling: str) -> None:
    for nominal in (32, 96, 224):
        with torch.device("meta"):
            network = GoogLeNet(small(norm="none", head=head, pooling=pooling, resolution=nominal))
            for side in (32, 33, 47, 63, 64, 65, 79, 96, 127, 160, 223, 225):
                assert all(logits.shape == (2, 7) for logits in network(torch.empty(2, 3, side, side)))
            assert network(torch.empty(2, 3, 48, 131)).aux2.shape == (2, 7)


@pytest.mark.parametrize("aux", ["none", "aux1", "aux2", "both"])
def test_auxiliary_classifiers_run_in_training_and_not_in_evaluation(aux: str) -> None:
    network = GoogLeNet(small(aux=aux))
    trained = network(images(32))
    assert (trained.aux1 is not None, trained.aux2 is not None) == (aux in ("aux1", "both"), aux in ("aux2", "both"))
    network.eval()
    with torch.no_grad():
        expected = network(images(32))
        assert expected.aux1 is None
        assert expected.aux2 is None
        for stage in ("aux1", "aux2"):
            for parameter in stage_parameters(network).get(stage, []):
                parameter.fill_(torch.nan)
        assert torch.equal(network(images(32)).main, expected.main)


def test_networks_that_differ_in_auxiliary_classifiers_start_with_the_same_other_weights() -> None:
    def start(aux: str) -> dict[str, Tensor]:
        torch.manual_seed(3)
        return GoogLeNet(small(aux=aux)).state_dict()

    none, both = start("none"), start("both")
    assert none.keys() < both.keys()
    assert all(torch.equal(weights, both[name]) for name, weights in none.items())


def test_the_global_generator_determines_the_weights() -> None:
    def start(seed: int) -> Tensor:
        torch.manual_seed(seed)
        return nn.utils.parameters_to_vector(GoogLeNet(small(aux="none")).parameters())

    assert torch.equal(start(1), start(1))
    assert not torch.equal(start(1), start(2))


@pytest.mark.parametrize("norm", ["none", "batch"])
def test_initialisation_preserves_the_signal_through_all_layers(norm: str) -> None:
    torch.manual_seed(0)
    network = GoogLeNet(small(norm=norm, resolution=96))
    deviations = []
    for module in (network.conv3, network.inception3b, network.inception4e, network.inception5b):
        module.register_forward_hook(lambda _module, _inputs, output: deviations.append(float(output.std())))
    with torch.no_grad():
        logits = network(images(96)).main
    assert max(deviations) < 5 * min(deviations)
    assert logits.std() < 2


def test_channels_last_is_kept_through_the_network() -> None:
    network = GoogLeNet(small(resolution=96)).to(memory_format=torch.channels_last)
    kept = []
    for module in network.modules():
        if isinstance(module, Inception):
            module.register_forward_hook(
                lambda _module, _inputs, output: kept.append(output.is_contiguous(memory_format=torch.channels_last))
            )
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        network(images(96).to(memory_format=torch.channels_last))
    assert kept == [True] * 9


def test_the_auxiliary_pool_is_the_papers_at_the_nominal_size_and_adaptive_elsewhere() -> None:
    pool = AuxiliaryPool(14, NetworkConfig())
    x = torch.randn(1, 2, 14, 14)
    assert torch.equal(pool(x), F.avg_pool2d(x, 5, 3))
    assert torch.equal(pool(x[..., :9, :9]), F.adaptive_avg_pool2d(x[..., :9, :9], 4))
    port = AuxiliaryPool(14, NetworkConfig(pooling="port"))
    assert torch.equal(port(x), F.adaptive_avg_pool2d(x, 4))


def test_every_parameter_is_in_one_stage() -> None:
    network = GoogLeNet(small(head="fc"))
    stages = stage_parameters(network)
    assert tuple(stages) == STAGES
    listed = [id(parameter) for parameters in stages.values() for parameter in parameters]
    assert sorted(listed) == sorted(id(parameter) for parameter in network.parameters())
    assert set(stages["4"]) == {p for name, p in network.named_parameters() if name.startswith("inception4")}
    assert tuple(stage_parameters(GoogLeNet(small(aux="aux2")))) == ("stem", "3", "4", "5", "head", "aux2")


@pytest.mark.parametrize(("rate", "dropouts"), [(0.0, 1), (0.5, 2)])
def test_a_head_drops_out_before_its_first_linear_layer_only_on_request(rate: float, dropouts: int) -> None:
    head = GoogLeNet(small(aux_input_dropout=rate, aux_dropout=0.5)).train().get_submodule("aux1")
    assert sum(isinstance(module, nn.Dropout) for module in head.modules()) == dropouts
    seen: list[Tensor] = []
    head.get_submodule("fc1").register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    torch.manual_seed(0)
    head(torch.ones(64, 512, 2, 2))
    positive = seen[0][:, seen[0].gt(0).any(dim=0)]  # units that the ReLU leaves for the same input
    assert positive.eq(0).float().mean().item() == pytest.approx(rate, abs=0.05)
