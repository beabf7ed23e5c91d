"""Auxiliary classifiers (Szegedy et al. 2014, section 5).

They add losses at intermediate layers in training and are not evaluated.
"""

from __future__ import annotations

import math

from torch import Tensor, nn
from torch.nn import functional as F

from reproduce.models.inception import Convolution
from reproduce.models.pooling import adaptive_average
from reproduce.spec import NetworkConfig

PORT_GRID = 4  # torchvision pools to 4x4 at every input size


def paper_grid(side: int) -> int:
    """Output side of the paper's average pool, 5x5 with stride 3, for an input side; a smaller map is pooled whole."""
    return (side - min(5, side)) // 3 + 1


class AuxiliaryPool(nn.Module):
    """Average pool of an auxiliary classifier: [N, C, H, W] -> [N, C, grid, grid].

    With `config.pooling` "paper", it is the paper's pool for inputs for which that pool gives this grid, among them the
    nominal input size. For other inputs (progressive resizing), and with "port", it is adaptive.

    Args:
        side: Side of its input at the nominal resolution.
        config: The network's config.
    """

    def __init__(self, side: int, config: NetworkConfig) -> None:
        super().__init__()
        self.paper = config.pooling == "paper"
        self.grid = paper_grid(side) if self.paper else PORT_GRID

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        if self.paper and paper_grid(height) == paper_grid(width) == self.grid:
            return F.avg_pool2d(x, (min(5, height), min(5, width)), stride=3)
        return adaptive_average(x, self.grid)


class AuxiliaryClassifier(nn.Module):
    """Average pool, 1x1 convolution to 128 channels, linear to 1024, ReLU, dropout, linear to the classes.

    [N, in_channels, H, W] -> [N, classes].

    Args:
        in_channels: Channels of its input.
        side: Side of its input at the nominal resolution. At 224 pixels it is 14; the pool then gives 4x4 and the first
            linear layer has 2048 inputs.
        config: The network's config.
    """

    def __init__(self, in_channels: int, side: int, config: NetworkConfig) -> None:
        super().__init__()
        self.pool = AuxiliaryPool(side, config)
        self.conv = Convolution(in_channels, 128, 1, norm=config.norm == "batch")
        self.fc1 = hidden_linear(128 * self.pool.grid**2, 1024)
        self.dropout = nn.Dropout(config.aux_dropout)
        self.fc2 = class_linear(1024, config.classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(self.pool(x)).flatten(1)
        x = self.dropout(F.relu(self.fc1(x), inplace=True))
        logits: Tensor = self.fc2(x)
        return logits


def hidden_linear(inputs: int, outputs: int) -> nn.Linear:
    """A linear layer before a ReLU, with He's uniform initialisation and zero bias."""
    layer = nn.Linear(inputs, outputs)
    nn.init.kaiming_uniform_(layer.weight, nonlinearity="relu")
    nn.init.zeros_(layer.bias)
    return layer


def class_linear(inputs: int, classes: int) -> nn.Linear:
    """A linear layer to the logits, with small weights (standard deviation 0.009 at 1024 inputs) and zero bias.

    Training then starts from nearly uniform probabilities, whatever the number of inputs.
    """
    layer = nn.Linear(inputs, classes)
    bound = 0.5 / math.sqrt(inputs)
    nn.init.uniform_(layer.weight, -bound, bound)
    nn.init.zeros_(layer.bias)
    return layer
