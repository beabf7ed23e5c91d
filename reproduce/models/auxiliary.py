"""Auxiliary classifiers (Szegedy et al. 2014, section 5).

In training they add losses at intermediate layers. In evaluation mode the network does not compute them.
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
    """Compute the output side of the paper's average pool: 5x5 pixels with stride 3, without padding.

    On a map with a side below 5 pixels, the window shrinks to that side, so that the output side is 1.

    Args:
        side: Side of the pool's input in pixels, at least 1.
    """
    return (side - min(5, side)) // 3 + 1


class AuxiliaryPool(nn.Module):
    """Average pool at the input of an auxiliary classifier: [N, C, H, W] -> [N, C, grid, grid].

    The grid is fixed when the module is built: 4x4 if `config.pooling` is "port", and the output size of the paper's
    pool at the nominal resolution if it is "paper". The forward pass uses the paper's pool (5x5, stride 3) if
    `config.pooling` is "paper" and that pool turns the given map into this grid. Otherwise it pools adaptively, for
    example while progressive resizing trains on smaller images.

    Args:
        side: Height and width of the input map at `config.resolution`.
        config: Config of the network; only `pooling` is read.
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
    """An auxiliary classifier: feature map [N, in_channels, H, W] -> logits [N, classes], without softmax.

    The layers are an average pool, a 1x1 convolution block to 128 channels, a linear layer to 1024 units, ReLU, dropout
    and a linear layer to the classes. If `config.aux_input_dropout` is above 0, there is a dropout before the first
    linear layer as well.

    Args:
        in_channels: Channels of the input map.
        side: Height and width of the input map at `config.resolution`. For images of 224 pixels it is 14. The pool then
            gives 4x4, and the first linear layer has 2048 inputs.
        config: Config of the network.
    """

    def __init__(self, in_channels: int, side: int, config: NetworkConfig) -> None:
        super().__init__()
        self.pool = AuxiliaryPool(side, config)
        self.conv = Convolution(in_channels, 128, 1, norm=config.norm == "batch")
        # Without it, no module takes part: a dropout of 0 would still draw from the generator.
        rate = config.aux_input_dropout
        self.input_dropout: nn.Module = nn.Dropout(rate) if rate else nn.Identity()
        self.fc1 = hidden_linear(128 * self.pool.grid**2, 1024)
        self.dropout = nn.Dropout(config.aux_dropout)
        self.fc2 = class_linear(1024, config.classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.input_dropout(self.conv(self.pool(x)).flatten(1))
        x = self.dropout(F.relu(self.fc1(x), inplace=True))
        logits: Tensor = self.fc2(x)
        return logits


def hidden_linear(inputs: int, outputs: int) -> nn.Linear:
    """Create a linear layer that a ReLU follows, with He's uniform initialisation and zero bias."""
    layer = nn.Linear(inputs, outputs)
    nn.init.kaiming_uniform_(layer.weight, nonlinearity="relu")
    nn.init.zeros_(layer.bias)
    return layer


def class_linear(inputs: int, classes: int) -> nn.Linear:
    """Create the linear layer that computes logits, with small uniform weights and zero bias.

    The standard deviation of the weights is 0.29 / sqrt(inputs), which is 0.009 for 1024 inputs. Training then starts
    from nearly uniform class probabilities, whatever the number of inputs.
    """
    layer = nn.Linear(inputs, classes)
    bound = 0.5 / math.sqrt(inputs)
    nn.init.uniform_(layer.weight, -bound, bound)
    nn.init.zeros_(layer.bias)
    return layer
