"""GoogLeNet (Szegedy et al. 2014, arXiv:1409.4842) as one class that builds the network of any `NetworkConfig`."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn

from reproduce.models.auxiliary import AuxiliaryClassifier, class_linear, hidden_linear
from reproduce.models.inception import Convolution, Inception, Widths
from reproduce.models.pooling import AdaptiveAveragePool
from reproduce.native.kernels import MaxPool
from reproduce.spec import NetworkConfig

WIDTHS = {
    "3a": Widths(64, 96, 128, 16, 32, 32),
    "3b": Widths(128, 128, 192, 32, 96, 64),
    "4a": Widths(192, 96, 208, 16, 48, 64),
    "4b": Widths(160, 112, 224, 24, 64, 64),
    "4c": Widths(128, 128, 256, 24, 64, 64),
    "4d": Widths(112, 144, 288, 32, 64, 64),
    "4e": Widths(256, 160, 320, 32, 128, 128),
    "5a": Widths(256, 160, 320, 32, 128, 128),
    "5b": Widths(384, 192, 384, 48, 128, 128),
}
"""Channels of the Inception modules (Szegedy et al. 2014, Table 1)."""

STAGES = ("stem", "3", "4", "5", "head", "aux1", "aux2")
"""Names of the parts of a network whose gradients are recorded.

From input to output: the stem, the Inception modules of stages 3, 4 and 5, and the main classifier ("head"). The two
auxiliary classifiers follow.
"""


class Outputs(NamedTuple):
    """Logits of the main classifier and of the auxiliary classifiers, each of shape [N, classes].

    `aux1` and `aux2` are None in evaluation mode. Each is also None if the network lacks that auxiliary classifier.
    """

    main: Tensor
    aux1: Tensor | None
    aux2: Tensor | None


class GoogLeNet(nn.Module):
    """The network that a `NetworkConfig` describes: normalised images [N, 3, H, W] -> logits, as `Outputs`.

    H and W may be any sizes from 32 pixels. The linear layers of the auxiliary classifiers and of `head: fc` are sized
    for `config.resolution`. For images of another size, the feature maps before these layers are average pooled to the
    grid that they have at that resolution.

    The output size of every max pool with stride 2 is rounded up, as in Caffe. As in the common ports, the local
    response normalisation of the paper's stem, which has no parameters, is left out. The parameters have the same names
    as in the public layouts of `reproduce.models.interchange`.

    The initial weights are drawn from torch's global generator, those of the auxiliary classifiers last. Networks that
    are built from the same seed and differ only in their auxiliary classifiers therefore start with the same weights
    everywhere else.

    Source: Szegedy et al. 2014, Table 1 and section 5.

    Args:
        config: Config of the network; it is kept as the attribute `config`.
    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        norm = config.norm == "batch"
        self.conv1 = Convolution(3, 64, 7, stride=2, norm=norm)
        self.maxpool1 = MaxPool(3, stride=2, ceil_mode=True)
        self.conv2 = Convolution(64, 64, 1, norm=norm)
        self.conv3 = Convolution(64, 192, 3, norm=norm)
        self.maxpool2 = MaxPool(3, stride=2, ceil_mode=True)
        self.inception3a = Inception(192, WIDTHS["3a"], config)
        self.inception3b = Inception(self.inception3a.out_channels, WIDTHS["3b"], config)
        self.maxpool3 = MaxPool(3, stride=2, ceil_mode=True)
        self.inception4a = Inception(self.inception3b.out_channels, WIDTHS["4a"], config)
        self.inception4b = Inception(self.inception4a.out_channels, WIDTHS["4b"], config)
        self.inception4c = Inception(self.inception4b.out_channels, WIDTHS["4c"], config)
        self.inception4d = Inception(self.inception4c.out_channels, WIDTHS["4d"], config)
        self.inception4e = Inception(self.inception4d.out_channels, WIDTHS["4e"], config)
        self.maxpool4 = MaxPool({"paper": 3, "port": 2}[config.pooling], stride=2, ceil_mode=True)
        self.inception5a = Inception(self.inception4e.out_channels, WIDTHS["5a"], config)
        self.inception5b = Inception(self.inception5a.out_channels, WIDTHS["5b"], config)

        side4 = (config.resolution + 1) // 16  # conv1 halves rounding up, three pools halve rounding down
        side5 = side4 // 2 if config.pooling == "paper" else (side4 + 1) // 2
        channels = self.inception5b.out_channels
        self.avgpool = AdaptiveAveragePool(1 if config.head == "avgpool" else side5)
        self.hidden = nn.Sequential()
        if config.head == "fc":
            self.hidden.extend([hidden_linear(channels * side5**2, 1024), nn.ReLU(inplace=True)])
            channels = 1024
        self.dropout = nn.Dropout(config.dropout)
        self.fc = class_linear(channels, config.classes)

        self.aux1 = self.aux2 = None
        if config.aux in ("aux1", "both"):
            self.aux1 = AuxiliaryClassifier(self.inception4a.out_channels, side4, config)
        if config.aux in ("aux2", "both"):
            self.aux2 = AuxiliaryClassifier(self.inception4d.out_channels, side4, config)

    def forward(self, images: Tensor) -> Outputs:
        x = self.maxpool1(self.conv1(images))
        x = self.maxpool2(self.conv3(self.conv2(x)))
        x = self.maxpool3(self.inception3b(self.inception3a(x)))
        x = self.inception4a(x)
        aux1 = self.aux1(x) if self.aux1 is not None and self.training else None
        x = self.inception4d(self.inception4c(self.inception4b(x)))
        aux2 = self.aux2(x) if self.aux2 is not None and self.training else None
        x = self.maxpool4(self.inception4e(x))
        x = self.inception5b(self.inception5a(x))
        x = self.hidden(self.avgpool(x).flatten(1))
        return Outputs(self.fc(self.dropout(x)), aux1, aux2)


def stage_parameters(network: GoogLeNet) -> dict[str, list[nn.Parameter]]:
    """Group the parameters of a network by stage.

    Returns:
        The parameters of each stage, in the order of `STAGES`. Every parameter is in exactly one stage. A stage without
        parameters is absent, for example "aux1" if the network has no such classifier.
    """
    stages: dict[str, list[nn.Parameter]] = {stage: [] for stage in STAGES}
    for name, parameter in network.named_parameters():
        stages[_stage(name)].append(parameter)
    return {stage: parameters for stage, parameters in stages.items() if parameters}


def _stage(parameter_name: str) -> str:
    part = parameter_name.partition(".")[0]
    if part.startswith("inception"):
        return part.removeprefix("inception")[0]
    if part.startswith("conv"):
        return "stem"
    return part if part in STAGES else "head"
