import pytest
import torch
from torch import Tensor, nn

from reproduce.models import GoogLeNet
from reproduce.models.graph import POOLS, WITH_PARAMETERS, longest_path, receptive_field_by_gradient, receptive_fields
from reproduce.spec import NetworkConfig


def network(**changes: str) -> GoogLeNet:
    torch.manual_seed(0)
    return GoogLeNet(NetworkConfig.model_validate({"norm": "none", "aux": "none", "classes": 2, **changes})).eval()


class TwoBranches(nn.Module):
    """The second branch looks two pixels to the right of the first."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Conv2d(1, 1, 3, padding=2)
        self.right = nn.Conv2d(1, 1, 3)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.left(x), self.right(x)], dim=1)


def test_fields_follow_from_kernel_stride_and_padding() -> None:
    fields = receptive_fields(
        nn.Sequential(nn.Conv2d(3, 8, 7, stride=2, padding=3), nn.MaxPool2d(3, stride=2), nn.Conv2d(8, 8, 3, padding=1))
    )
    assert [(field.size, field.jump, field.first) for field in fields.values()] == [
        (7, 2, -3),
        (11, 4, -3),
        (19, 4, -7),
    ]


def test_a_concatenation_has_the_union_of_its_branches_fields() -> None:
    fields = receptive_fields(nn.Sequential(TwoBranches(), nn.Conv2d(2, 1, 1)))
    assert [(field.first, field.last) for field in fields.values()] == [(-2, 0), (0, 2), (-2, 2), (-2, 2)]


@pytest.mark.parametrize("layer", ["conv3.conv", "inception3a", "maxpool3", "inception4b"])
@pytest.mark.parametrize("changes", [{}, {"large_kernel": "3x3", "pooling": "port"}])
def test_gradients_reach_the_whole_computed_field(layer: str, changes: dict[str, str]) -> None:
    ours = network(**changes)
    field = receptive_fields(ours)[layer]
    length = field.size + 4 * field.jump
    assert {receptive_field_by_gradient(ours, layer, length=length, seed=seed) for seed in range(3)} == {field.size}


def test_the_measured_size_does_not_depend_on_the_images_height() -> None:
    ours = network()
    sizes = {receptive_field_by_gradient(ours, "inception3b", length=length, seed=0) for length in (200, 257, 400)}
    assert sizes == {receptive_fields(ours)["inception3b"].size}


@pytest.mark.parametrize(
    ("changes", "layers", "with_pools"),
    [({}, 22, 27), ({"norm": "batch"}, 22, 27), ({"reduction": "unreduced"}, 13, 27), ({"head": "fc"}, 23, 28)],
)
def test_depth_is_the_longest_path(changes: dict[str, str], layers: int, with_pools: int) -> None:
    ours = network(**changes)
    assert longest_path(ours, WITH_PARAMETERS) == layers
    assert longest_path(ours, WITH_PARAMETERS + POOLS) == with_pools
