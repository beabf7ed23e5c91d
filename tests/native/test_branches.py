"""Maps for parallel branches: their gradients are added up in one pass, and outputs at their places are not copied."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from reproduce.models.inception import Inception, Widths
from reproduce.native import KERNELS
from reproduce.native.c_kernels import TYPES, sum_maps
from reproduce.native.kernels import Joint, fan_out
from reproduce.spec import NetworkConfig
from tests.native.sums import check_sum, maps

WIDTHS = Widths(one=19, three_reduce=24, three=32, five_reduce=8, five=16, pool=17)
each_type = pytest.mark.parametrize("dtype", TYPES, ids=TYPES.values())


@pytest.fixture(autouse=True)
def native(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KERNELS.variable, "native")


@pytest.mark.parametrize("count", [2, 3, 4])
@pytest.mark.parametrize("shape", [(2, 70, 9, 7), (3, 5, 1, 1), (1, 64, 1, 8), (2, 16, 4, 1)], ids=str)
@each_type
def test_a_sum_is_rounded_once_also_of_channels_of_larger_maps(
    shape: tuple[int, ...], count: int, dtype: torch.dtype
) -> None:
    check_sum(sum_maps, shape, count, dtype)


def test_a_gradient_that_is_one_number_for_all_pixels_is_added_up() -> None:
    x = maps(2, 8, 3, 3, dtype=torch.bfloat16).requires_grad_()
    one, two = fan_out(x, 2)
    (one.sum() + two.mean() * two.numel()).backward()
    assert x.grad is not None
    assert torch.equal(x.grad, torch.full_like(x, 2))


def test_a_branch_that_is_not_used_has_no_part_in_the_gradient() -> None:
    for used in (1, 2):
        x = maps(2, 8, 3, 3, dtype=torch.bfloat16).requires_grad_()
        handed = fan_out(x, 3)
        sum(part.sum() for part in handed[:used]).backward()  # type: ignore[union-attr]
        assert x.grad is not None
        assert torch.equal(x.grad, torch.full_like(x, used))


def test_without_gradients_every_branch_gets_the_maps_themselves() -> None:
    x = maps(2, 8, 3, 3, dtype=torch.bfloat16)
    assert all(part is x for part in fan_out(x, 4))
    with torch.no_grad():
        assert all(part is x for part in fan_out(x.requires_grad_(), 4))


NETWORKS = {
    f"{reduction}, {norm}, {branches}": NetworkConfig(reduction=reduction, norm=norm, branches=branches)
    for reduction, branches in (("reduced", "mixed"), ("unreduced", "mixed"), ("naive", "mixed"), ("reduced", "3x3"))
    for norm in ("batch", "none")
}


@pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS)
@each_type
def test_a_module_computes_what_its_branches_and_a_concatenation_do(network: NetworkConfig, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    module = Inception(24, WIDTHS, network).to(memory_format=torch.channels_last)
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            layer.to(dtype)
    other = copy.deepcopy(module)
    x = maps(3, 24, 9, 7, dtype=dtype)
    grad = maps(3, module.out_channels, 9, 7, dtype=dtype, seed=1)

    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    y = module(ours)
    assert y.is_contiguous(memory_format=torch.channels_last)
    expected = torch.cat([branch(theirs) for branch in other.children()], dim=1)
    assert torch.equal(y, expected)
    y.backward(grad)
    expected.backward(grad)
    assert ours.grad is not None
    assert theirs.grad is not None
    rounding = 2 * torch.finfo(dtype).eps * float(theirs.grad.abs().max())
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=0, atol=rounding)
    for parameter, reference in zip(module.parameters(), other.parameters(), strict=True):
        assert parameter.grad is not None
        assert reference.grad is not None
        assert torch.equal(parameter.grad, reference.grad)

    for evaluated in (module.eval(), other.eval()):
        evaluated.requires_grad_(False)
    with torch.no_grad():
        assert torch.equal(module(x), torch.cat([branch(x) for branch in other.children()], dim=1))


def test_maps_that_do_not_fit_are_concatenated() -> None:
    joint = Joint((3, 5))
    one, two = maps(2, 3, 4, 4, dtype=torch.float32), maps(2, 5, 4, 4, dtype=torch.bfloat16)
    assert joint.place(0, one) is not None
    assert joint.place(1, two) is None
    joined = joint.join([one, two])
    assert joined.dtype is torch.float32
    assert torch.equal(joined, torch.cat([one, two.float()], dim=1))


def test_maps_at_their_places_are_joined_without_a_copy_and_others_with_one() -> None:
    joint = Joint((3, 5))
    one, two = maps(2, 3, 4, 4, dtype=torch.float32), maps(2, 5, 4, 4, dtype=torch.float32)
    place = joint.place(1, two)
    assert place is not None
    joined = joint.join([one.requires_grad_(), place.copy_(two).requires_grad_()])
    assert joined[:, 3:].data_ptr() == place.data_ptr()
    assert torch.equal(joined, torch.cat([one, two], dim=1))
    joined.backward(torch.cat([torch.full_like(one, 1), torch.full_like(two, 2)], dim=1))
    assert one.grad is not None
    assert place.grad is not None
    assert torch.equal(one.grad, torch.full_like(one, 1))
    assert torch.equal(place.grad, torch.full_like(two, 2))
