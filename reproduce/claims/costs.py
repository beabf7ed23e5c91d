"""Static measurements of cost: parameters and multiply-adds of our networks and of torchvision's."""

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
"""The network of Szegedy et al. 2014: convolutions with biases and without batch normalisation, which came later."""

TABLE1_ROWS = {
    "conv1": ("conv1",),
    "conv2": ("conv2", "conv3"),
    **{module: (f"inception{module}",) for module in ("3a", "3b", "4a", "4b", "4c", "4d", "4e", "5a", "5b")},
    "linear": ("fc",),
}


def parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def submodule(network: nn.Module, name: str, kind: type[M]) -> M:
    found = network.get_submodule(name)
    assert isinstance(found, kind)
    return found


def reduce_example() -> Measured[Value]:
    """Weights and receptive field of a 5x5 convolution, directly and behind a 1x1 reduction."""
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
    """Parameters of VGG-16 over those of GoogLeNet."""
    return _ratio("vgg16", "VGG-16")


def parameters_to_alexnet() -> Measured[Value]:
    """Parameters of AlexNet over those of GoogLeNet."""
    return _ratio("alexnet", "AlexNet")


def _ratio(builder: str, name: str) -> Measured[Value]:
    """Parameters of a network of torchvision over those of ours without auxiliary classifiers."""
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
    """Parameters that the two auxiliary classifiers add in training."""
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
    """Parameters that global average pooling saves.

    It is compared with a linear layer to 1024 units on the flattened 7x7x1024 maps (Szegedy et al. 2014, section 5).
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
    """Weights without biases, in units of 1 024, and multiply-adds in millions, for each row of Table 1."""
    total = cost(PAPER)
    values: dict[str, float] = {}
    for row, names in TABLE1_ROWS.items():
        parts = [total.part(name) for name in names]
        values[f"{row} parameters"] = sum(_weights(part) for part in parts) / 1024
        values[f"{row} operations"] = sum(part.macs for part in parts) / 1e6
    return Measured(
        values=values,
        summary=f"{value_text(_weights(total) / 1024)} K and {value_text(total.macs / 1e6)} M in all",
        evidence="weights without biases, counted from the printed layer sizes",
    )


def _weights(part: Cost) -> int:
    """The number of weights without biases. Each makes one multiply-add at every position of the output."""
    return sum(layer.macs // (layer.output_shape[1] * layer.output_shape[2]) for layer in part.layers)


def operations() -> Measured[Value]:
    """Multiply-adds for one image at evaluation."""
    macs = cost(PAPER).macs
    return Measured(
        values={"multiply-adds": macs},
        summary=f"{macs / 1e9:.3f} billion",
        evidence=f"{value_text(macs)} of convolutions and the linear layer, one 224×224 image, without the heads",
    )


def port() -> Measured[Value]:
    """The network of torchvision compared with our config of the same layout."""
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
