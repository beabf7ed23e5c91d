"""Static measurements of cost: parameters and multiply-adds of our networks and of torchvision's.

Each measurement returns its values by the names that the parts of a claim refer to. Numbers of parameters include
biases unless stated otherwise.
"""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import nn

from reproduce.claims.ledger import Value
from reproduce.claims.verdicts import Measured, StaticMeasurement, value_text
from reproduce.models import GoogLeNet
from reproduce.models.cost import Cost, cost
from reproduce.models.graph import receptive_fields
from reproduce.models.interchange import LAYOUTS
from reproduce.spec import NetworkConfig

M = TypeVar("M", bound=nn.Module)

PAPER = NetworkConfig(norm="none")
"""Config of the network of Szegedy et al. 2014: convolutions with biases and without batch normalisation."""

TABLE1_ROWS = {
    "conv1": ("conv1",),
    "conv2": ("conv2", "conv3"),
    **{module: (f"inception{module}",) for module in ("3a", "3b", "4a", "4b", "4c", "4d", "4e", "5a", "5b")},
    "linear": ("fc",),
}
"""Rows of Table 1 of Szegedy et al. 2014, and the modules of our network that each row describes."""


CONV1_SIDE = 112
"""Side of the output of the first convolution in pixels, for images of 224 pixels."""


def parameters(network: nn.Module) -> int:
    """Count the parameters of a network, biases included."""
    return sum(parameter.numel() for parameter in network.parameters())


def submodule(network: nn.Module, name: str, kind: type[M]) -> M:
    """Look up a submodule by its dotted name and assert that it is of the class `kind`."""
    found = network.get_submodule(name)
    assert isinstance(found, kind)
    return found


def reduce_example() -> Measured[Value]:
    """Measure weights and receptive field of a 5x5 convolution, with and without a 1x1 reduction before it.

    The convolution maps 512 channels to 64, the reduction 512 to 24. Neither has biases.

    Returns:
        The measured values by name:

        - `direct weights`, `reduced weights`: numbers of weights without and with the reduction.
        - `direct field`, `reduced field`: sides of the receptive fields in pixels.
    """
    direct = nn.Sequential(nn.Conv2d(512, 64, 5, padding=2, bias=False))
    reduced = nn.Sequential(nn.Conv2d(512, 24, 1, bias=False), nn.Conv2d(24, 64, 5, padding=2, bias=False))
    weights = [parameters(network) for network in (direct, reduced)]
    sizes = [list(receptive_fields(network).values())[-1].size for network in (direct, reduced)]
    return Measured(
        values={
            "direct weights": weights[0],
            "reduced weights": weights[1],
            "direct field": sizes[0],
            "reduced field": sizes[1],
        },
        summary=f"{value_text(weights[0])} and {value_text(weights[1])}",
        evidence=f"1/{weights[0] / weights[1]:.1f} of the weights; both see {sizes[0]}×{sizes[1]} pixels",
    )


def parameters_to_vgg16() -> Measured[Value]:
    """Divide the number of parameters of VGG-16 by that of GoogLeNet without auxiliary classifiers.

    Returns:
        The measured values by name:

        - `GoogLeNet`, `VGG-16`: numbers of parameters.
        - `ratio`: that of VGG-16 over that of GoogLeNet.
    """
    return _ratio("vgg16", "VGG-16")


def parameters_to_alexnet() -> Measured[Value]:
    """Divide the number of parameters of AlexNet by that of GoogLeNet without auxiliary classifiers.

    Returns:
        The measured values by name:

        - `GoogLeNet`, `AlexNet`: numbers of parameters.
        - `ratio`: that of AlexNet over that of GoogLeNet.
    """
    return _ratio("alexnet", "AlexNet")


def _ratio(builder: str, name: str) -> Measured[Value]:
    """Divide the number of parameters of a torchvision network by that of ours without auxiliary classifiers."""
    import torchvision

    with torch.device("meta"):
        theirs = parameters(getattr(torchvision.models, builder)(weights=None))
    ours = cost(PAPER).parameters
    trunk = ours - cost(PAPER).part("fc").parameters
    return Measured(
        values={"GoogLeNet": ours, name: theirs, "ratio": theirs / ours},
        summary=f"{value_text(ours)} and {value_text(theirs)}: 1/{theirs / ours:.2f}",
        evidence=f"torchvision's {builder}; without its linear layer GoogLeNet has 1/{theirs / trunk:.1f}",
    )


def auxiliary_parameters() -> Measured[Value]:
    """Count the parameters that the two auxiliary classifiers add in training.

    Returns:
        The measured values by name:

        - `heads`: parameters of both auxiliary classifiers.
        - `training network`: parameters of the network with them.
        - `share`: `heads` over the parameters of the network without them.
    """
    training = cost(PAPER, training=True)
    heads = {head: training.part(head).parameters for head in ("aux1", "aux2")}
    added, whole = sum(heads.values()), training.parameters
    return Measured(
        values={"heads": added, "training network": whole, "share": added / (whole - added)},
        summary=f"{value_text(added)} more, {value_text(whole)} in all",
        evidence=f"{value_text(heads['aux1'])} after 4a and {value_text(heads['aux2'])} after 4d: "
        f"{100 * added / (whole - added):.0f} % of the network without them",
    )


def connected_head() -> Measured[Value]:
    """Count the parameters that global average pooling saves.

    The network is compared with one in which a linear layer to 1024 units on the flattened 7x7x1024 maps takes the
    place of the pool (Szegedy et al. 2014, section 5). Both are without auxiliary classifiers.

    Returns:
        The measured values by name:

        - `removed`: number of parameters that pooling saves.
        - `share`: `removed` over the parameters of the network with the linear layer.
    """
    pooled, connected = cost(PAPER), cost(PAPER.model_copy(update={"head": "fc"}))
    more = connected.parameters - pooled.parameters
    return Measured(
        values={"removed": more, "share": more / connected.parameters},
        summary=f"{100 * more / connected.parameters:.0f} % of {value_text(connected.parameters)} removed",
        evidence=f"the FC head costs {value_text(more)} parameters and {(connected.macs - pooled.macs) / 1e6:.1f} M "
        f"multiply-adds, {100 * connected.macs / pooled.macs - 100:.1f} % more of these",
    )


def table1() -> Measured[Value]:
    """Count weights and multiply-adds for each row of Table 1 of Szegedy et al. 2014.

    Returns:
        The measured values by name:

        - `ROW parameters`: number of weights without biases, in units of 1024, for each row of `TABLE1_ROWS`.
        - `ROW operations`: multiply-adds of one image in millions, for each row of `TABLE1_ROWS`.
        - `separable conv1 weights`, `separable conv1 operations`: number of weights and multiply-adds in millions of a
          depthwise separable convolution in place of the first, see `separable_conv1`.
    """
    total = cost(PAPER)
    weights = separable_conv1()
    values: dict[str, float] = {}
    for row, names in TABLE1_ROWS.items():
        parts = [total.part(name) for name in names]
        values[f"{row} parameters"] = sum(_weights(part) for part in parts) / 1024
        values[f"{row} operations"] = sum(part.macs for part in parts) / 1e6
    values["separable conv1 weights"] = weights
    values["separable conv1 operations"] = weights * CONV1_SIDE**2 / 1e6
    return Measured(
        values=values,
        summary=f"{value_text(_weights(total) / 1024)} K and {value_text(total.macs / 1e6)} M in all",
        evidence="weights without biases, counted from the printed layer sizes; a depthwise separable 7×7 of "
        f"multiplier 8 has {value_text(weights)} weights and {values['separable conv1 operations']:.2f} M operations, "
        "as the row of conv1 prints",
    )


def separable_conv1() -> int:
    """Count the weights of a depthwise separable 7x7 convolution in place of the first one.

    It has 8 filters of 7x7 for each of the 3 channels and a 1x1 convolution of the resulting 24 channels to 64, as the
    first layer of TensorFlow-Slim's Inception v2. The number fits what Table 1 prints for the first convolution.
    """
    return parameters(
        nn.Sequential(nn.Conv2d(3, 24, 7, stride=2, padding=3, groups=3, bias=False), nn.Conv2d(24, 64, 1, bias=False))
    )


def _weights(part: Cost) -> int:
    """Count the weights without biases, from the multiply-adds: each weight makes one at every output position."""
    return sum(layer.macs // (layer.output_shape[1] * layer.output_shape[2]) for layer in part.layers)


def operations() -> Measured[Value]:
    """Count the multiply-adds of evaluating one 224x224 image.

    Returns:
        The measured values by name:

        - `multiply-adds`: the number of multiply-adds in the convolutions and the main classifier's linear layer.
        - `with separable conv1`: the same with a depthwise separable first convolution, see `separable_conv1`.
    """
    total = cost(PAPER)
    conv1 = total.part("conv1").macs
    macs = total.macs
    separable = macs - conv1 + separable_conv1() * CONV1_SIDE**2
    return Measured(
        values={"multiply-adds": macs, "with separable conv1": separable},
        summary=f"{macs / 1e9:.3f} billion",
        evidence=f"{value_text(macs)} of convolutions and the linear layer, one 224×224 image, without the heads: "
        f"{100 * macs / 1.5e9 - 100:.1f} % above 1.5 billion, 1.6 when rounded; with conv1 as Table 1 counts it, a "
        f"depthwise separable 7×7, {separable / 1e9:.3f} billion",
    )


def port() -> Measured[Value]:
    """Compare torchvision's GoogLeNet with our network of the same layout.

    Returns:
        The measured values by name:

        - `without heads`, `with heads`: parameters of torchvision's network without and with auxiliary classifiers.
        - `ours without heads`, `ours with heads`: the same for our network.
        - `differing tensors`: number of tensors in the two state dicts whose name or shape differs.
        - `batch norms`: number of batch normalisations in torchvision's network.
        - `third kernel`, `last pool`: kernel of the third branch and side of the last max pool in torchvision's
          network.
        - `dropout`, `head dropout`: dropout rates of torchvision's main and auxiliary classifiers.
    """
    import torchvision

    with torch.device("meta"):
        theirs = torchvision.models.GoogLeNet(aux_logits=True, init_weights=False)
        ours = GoogLeNet(NetworkConfig(**LAYOUTS["torchvision"]))
    shapes = [{name: tensor.shape for name, tensor in network.state_dict().items()} for network in (theirs, ours)]
    differing = sum(shapes[0].get(name) != shapes[1].get(name) for name in shapes[0].keys() | shapes[1].keys())
    heads = parameters(theirs.aux1) + parameters(theirs.aux2)
    whole, paper = parameters(theirs), cost(PAPER).parameters
    return Measured(
        values={
            "without heads": whole - heads,
            "with heads": whole,
            "ours without heads": cost(ours.config).parameters,
            "ours with heads": parameters(ours),
            "differing tensors": differing,
            "batch norms": sum(isinstance(module, nn.BatchNorm2d) for module in theirs.modules()),
            "third kernel": submodule(theirs, "inception3a.branch3.1.conv", nn.Conv2d).kernel_size,
            "last pool": submodule(theirs, "maxpool4", nn.MaxPool2d).kernel_size,
            "dropout": submodule(theirs, "dropout", nn.Dropout).p,
            "head dropout": submodule(theirs, "aux1.dropout", nn.Dropout).p,
        },
        summary=f"{value_text(whole - heads)} ({value_text(whole)} with heads)",
        evidence=f"{value_text(paper - whole + heads)} fewer than the paper's {value_text(paper)}; {differing} of "
        f"{len(shapes[0])} tensors differ from ours in name or shape",
    )


MEASUREMENTS: dict[str, StaticMeasurement] = {
    "reduce-example": reduce_example,
    "parameters-to-vgg16": parameters_to_vgg16,
    "parameters-to-alexnet": parameters_to_alexnet,
    "auxiliary-parameters": auxiliary_parameters,
    "connected-head": connected_head,
    "table-1": table1,
    "operations": operations,
    "port": port,
}
