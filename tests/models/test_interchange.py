"""Loaded weights agree with torchvision's own network and with a network in the plain layout that is written here."""

from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn

from reproduce.models.interchange import InterchangeError, load

CLASSES = 11


class Unit(nn.Module):
    def __init__(self, inputs: int, outputs: int, **options: Any) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, **options)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x).relu()


class Module(nn.Module):
    def __init__(self, inputs: int, a: int, b1: int, b2: int, c1: int, c2: int, d: int) -> None:
        super().__init__()
        self.branch1 = Unit(inputs, a, kernel_size=1)
        self.branch2 = nn.Sequential(Unit(inputs, b1, kernel_size=1), Unit(b1, b2, kernel_size=3, padding=1))
        self.branch3 = nn.Sequential(Unit(inputs, c1, kernel_size=1), Unit(c1, c2, kernel_size=5, padding=2))
        self.branch4 = nn.Sequential(nn.MaxPool2d(3, 1, 1), Unit(inputs, d, kernel_size=1))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat((self.branch1(x), self.branch2(x), self.branch3(x), self.branch4(x)), 1)


class Head(nn.Module):
    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.conv = Unit(inputs, 128, kernel_size=1)
        self.fc1 = nn.Linear(2048, 1024)
        self.fc2 = nn.Linear(1024, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(nn.functional.avg_pool2d(x, 5, 3)).flatten(1)
        return self.fc2(self.fc1(x).relu())


class Plain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = Unit(3, 64, kernel_size=7, stride=2, padding=3)
        self.conv2 = Unit(64, 64, kernel_size=1)
        self.conv3 = Unit(64, 192, kernel_size=3, padding=1)
        self.inception3a = Module(192, 64, 96, 128, 16, 32, 32)
        self.inception3b = Module(256, 128, 128, 192, 32, 96, 64)
        self.inception4a = Module(480, 192, 96, 208, 16, 48, 64)
        self.inception4b = Module(512, 160, 112, 224, 24, 64, 64)
        self.inception4c = Module(512, 128, 128, 256, 24, 64, 64)
        self.inception4d = Module(512, 112, 144, 288, 32, 64, 64)
        self.inception4e = Module(528, 256, 160, 320, 32, 128, 128)
        self.inception5a = Module(832, 256, 160, 320, 32, 128, 128)
        self.inception5b = Module(832, 384, 192, 384, 48, 128, 128)
        self.aux1, self.aux2 = Head(512), Head(528)
        self.fc = nn.Linear(1024, CLASSES)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        pool = nn.MaxPool2d(3, 2, ceil_mode=True)
        x = pool(self.conv3(self.conv2(pool(self.conv1(x)))))
        x = pool(self.inception3b(self.inception3a(x)))
        x = first = self.inception4a(x)
        x = second = self.inception4d(self.inception4c(self.inception4b(x)))
        x = self.inception5b(self.inception5a(pool(self.inception4e(x))))
        return self.fc(x.mean((2, 3))), self.aux2(second), self.aux1(first)


def without_dropout(network: nn.Module) -> nn.Module:
    for module in network.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return network


def torchvision_network(aux_logits: bool = True) -> nn.Module:
    torch.manual_seed(0)
    network = torchvision.models.GoogLeNet(
        num_classes=CLASSES, aux_logits=aux_logits, transform_input=False, init_weights=False
    )
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):  # trained statistics, not the identity of a fresh network
            nn.init.normal_(module.bias, std=0.1)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return without_dropout(network)


def plain_network() -> nn.Module:
    torch.manual_seed(0)
    network = Plain()
    for module in network.modules():
        if isinstance(module, nn.Conv2d):  # torch's default lets the signal fade until every network agrees
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
    return network


def assert_same(ours: Tensor, theirs: Tensor) -> None:
    assert theirs.std() > 1e-2
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("side", [224, 96])
def test_torchvision_weights_give_torchvision_outputs(side: int) -> None:
    theirs = torchvision_network()
    ours = without_dropout(load(theirs.state_dict(), layout="torchvision"))
    images = torch.randn(2, 3, side, side)
    with torch.no_grad():
        assert_same(ours.eval()(images).main, theirs.eval()(images))
        trained, expected = ours.train()(images), theirs.train()(images)
    assert_same(trained.main, expected.logits)
    assert_same(trained.aux1, expected.aux_logits1)
    assert_same(trained.aux2, expected.aux_logits2)
    assert all(
        torch.allclose(ours.state_dict()[name], tensor, atol=1e-5) for name, tensor in theirs.state_dict().items()
    )


@pytest.mark.parametrize("side", [224, 240])
def test_plain_weights_give_plain_outputs(side: int) -> None:
    theirs = plain_network()
    ours = without_dropout(load(theirs.state_dict(), layout="plain"))
    images = torch.randn(2, 3, side, side)
    with torch.no_grad():
        main, aux2, aux1 = theirs(images)
        trained, evaluated = ours(images), ours.eval()(images)
    assert_same(trained.main, main)
    assert_same(trained.aux1, aux1)
    assert_same(trained.aux2, aux2)
    assert_same(evaluated.main, main)


def test_classes_and_auxiliary_classifiers_follow_from_the_weights() -> None:
    assert load(torchvision_network(aux_logits=False).state_dict(), layout="torchvision").config.aux == "none"
    weights = {key: tensor for key, tensor in plain_network().state_dict().items() if not key.startswith("aux1.")}
    config = load(weights, layout="plain").config
    assert (config.aux, config.classes, config.norm, config.large_kernel) == ("aux2", CLASSES, "none", "5x5")


def test_weights_are_copied_and_batch_counters_may_be_missing() -> None:
    weights = torchvision_network(aux_logits=False).state_dict()
    old = {key: tensor for key, tensor in weights.items() if not key.endswith("num_batches_tracked")}
    network = load(old, layout="torchvision")
    assert torch.equal(network.fc.weight, weights["fc.weight"])
    assert network.fc.weight.data_ptr() != weights["fc.weight"].data_ptr()
    assert network.conv1.bn is not None
    assert network.conv1.bn.num_batches_tracked == 0


def test_wrong_keys_are_named() -> None:
    weights = plain_network().state_dict()
    shape = weights["aux1.fc1.weight"][:, :100]
    wrong = {**weights, "aux1.fc1.weight": shape, "conv9.conv.weight": torch.zeros(1)}
    del wrong["inception3a.branch1.conv.bias"]
    with pytest.raises(InterchangeError) as caught:
        load(wrong, layout="plain")
    assert "missing: inception3a.branch1.conv.bias" in str(caught.value)
    assert "unknown: conv9.conv.weight" in str(caught.value)
    assert "wrong shape: aux1.fc1.weight [1024, 100] instead of [1024, 2048]" in str(caught.value)


def test_the_wrong_layout_and_other_files_are_refused() -> None:
    with pytest.raises(InterchangeError, match=r"torchvision layout: missing: conv1\.bn\.weight.* more"):
        load(plain_network().state_dict(), layout="torchvision")
    with pytest.raises(InterchangeError, match=r"fc\.weight is missing; the keys are state_dict"):
        load({"state_dict": torch.zeros(1)}, layout="plain")
    with pytest.raises(InterchangeError, match="use one of torchvision, plain"):
        load({}, layout="caffe")  # type: ignore[arg-type]
