"""Static measurements of structure: shapes, branches, auxiliary classifiers, depth and receptive field.

Each measurement returns its values by the names that the parts of a claim refer to.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from reproduce.claims.costs import PAPER, submodule
from reproduce.claims.ledger import Value
from reproduce.claims.verdicts import Measured, StaticMeasurement, value_text
from reproduce.models import GoogLeNet
from reproduce.models.auxiliary import AuxiliaryClassifier
from reproduce.models.cost import cost
from reproduce.models.googlenet import WIDTHS
from reproduce.models.graph import POOLS, WITH_PARAMETERS, longest_path, receptive_field_by_gradient, receptive_fields
from reproduce.models.inception import Inception
from reproduce.spec import NetworkConfig, Reduction

SIDES = (*range(1, 57), 111, 112)
"""Heights in pixels of the maps on which branches are compared. The widths are the same numbers in reverse order."""
LATENCY_PAIRS, LATENCY_SIDE = 15, 112
FIELD_OF = "inception5b"
FIELD_IMAGES = 2


def output_shapes() -> Measured[Value]:
    """Determine the shape of every layer's output for one 224x224 image, in training.

    Returns:
        The measured values: (height, width, channels) by the dotted name of the layer, including the layers of the
        auxiliary classifiers. Height and width are 1 if the output is a vector.
    """
    layers = cost(PAPER, training=True).layers
    shapes = {layer.name: (layer.output_shape[1], layer.output_shape[2], layer.output_shape[0]) for layer in layers}
    return Measured(
        values=shapes,
        summary=f"224×224×3 to {value_text(shapes['inception5b'])} to {value_text(shapes['fc'])}",
        evidence="traced at 224×224; the max pools of stride 2 round up, as Caffe's do",
    )


def head_shapes() -> Measured[Value]:
    """Determine the shapes in the auxiliary classifiers for one 224x224 image, in training.

    Returns:
        All values of `output_shapes`, which include the auxiliary classifiers' layers, and in addition
        `aux1 flattened` and `aux2 flattened`: the number of inputs of the first linear layer of each.
    """
    shapes = dict(output_shapes().values)
    with torch.device("meta"):
        network = GoogLeNet(PAPER)
    for name, head in network.named_children():
        if isinstance(head, AuxiliaryClassifier):
            shapes[f"{name} flattened"] = head.fc1.in_features
    return Measured(
        values=shapes,
        summary=" → ".join(value_text(shapes[f"aux1.{x}"]) for x in ("pool", "conv.conv", "fc1", "fc2")),
        evidence="the first head; traced in training at 224×224",
    )


def branches() -> Measured[Value]:
    """Check on many input sizes that the four branches of an Inception module produce maps of equal size.

    The check covers the sizes of `SIDES` with each of the three kinds of reduction.

    Returns:
        The measured values by name:

        - `disagreeing`: number of inputs for which the branches' output sizes are not all equal.
        - `agreeing without padding`: number of inputs for which the pool, without its padding, would give the output
          size of one of the branches.
        - `pool stride`, `pool padding`: those of the max pool.
    """
    reductions: tuple[Reduction, ...] = ("reduced", "unreduced", "naive")
    tried = len(SIDES) * len(reductions)
    disagreeing = agreeing_unpadded = 0
    for reduction in reductions:
        with torch.device("meta"):
            module = Inception(192, WIDTHS["3a"], PAPER.model_copy(update={"reduction": reduction}))
        pool = submodule(module, "branch4.0", nn.MaxPool2d)
        unpadded = nn.MaxPool2d(pool.kernel_size, pool.stride)
        for height, width in zip(SIDES, reversed(SIDES), strict=True):
            x = torch.empty(1, 192, height, width, device="meta")
            sizes = {branch(x).shape[2:] for branch in module.children()}
            disagreeing += len(sizes) != 1
            agreeing_unpadded += min(height, width) >= 3 and unpadded(x).shape[2:] in sizes
    return Measured(
        values={
            "disagreeing": disagreeing,
            "agreeing without padding": agreeing_unpadded,
            "pool stride": pool.stride,
            "pool padding": pool.padding,
        },
        summary=f"agree on {tried - disagreeing} of {tried} maps",
        evidence=f"{len(SIDES)} sizes of {min(SIDES)} to {max(SIDES)} pixels a side, {', '.join(reductions)}; "
        f"without its padding the pool would agree at {agreeing_unpadded}",
    )


def heads_at_evaluation() -> Measured[Value]:
    """Compare a network with auxiliary classifiers with one without them, at evaluation.

    Both networks have the same initial weights outside the auxiliary classifiers. Latency is the CPU time of one image
    of `LATENCY_SIDE` pixels. While it is measured, torch uses one thread in the whole process.

    Returns:
        The measured values by name:

        - `parameters more`, `multiply-adds more`: parameters and multiply-adds at evaluation that the network with
          auxiliary classifiers has in addition.
        - `output`: "equal" if the logits of the main classifiers are exactly equal, else "differs".
        - `latency ratio`: latency with auxiliary classifiers over latency without, as the median of `LATENCY_PAIRS`
          pairs of measurements.
    """
    networks = []
    for aux in ("both", "none"):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            networks.append(GoogLeNet(PAPER.model_copy(update={"aux": aux})).eval())
    with_heads, without = networks
    images = torch.randn(1, 3, LATENCY_SIDE, LATENCY_SIDE, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode(), _one_thread():
        same = torch.equal(with_heads(images).main, without(images).main)
        ratios = _latency_ratios(with_heads, without, images)
    costs = [cost(network.config) for network in networks]
    parameters = costs[0].parameters - costs[1].parameters
    macs = costs[0].macs - costs[1].macs
    median = statistics.median(ratios)
    low, _, high = statistics.quantiles(ratios, n=4)
    return Measured(
        values={
            "parameters more": parameters,
            "multiply-adds more": macs,
            "output": "equal" if same else "differs",
            "latency ratio": median,
        },
        summary=f"{parameters} parameters and {macs} multiply-adds more, latency × {median:.3f}",
        evidence=f"latency with heads over without, one image of {LATENCY_SIDE}×{LATENCY_SIDE}, CPU time of one "
        f"thread: quartiles {low:.3f} and {high:.3f}, "
        f"n = {len(ratios)} interleaved pairs, best of 3 each",
    )


def _latency_ratios(a: nn.Module, b: nn.Module, images: torch.Tensor) -> list[float]:
    """Measure the CPU time of `a` over that of `b` in `LATENCY_PAIRS` pairs; which comes first alternates."""
    ratios = []
    for number in range(LATENCY_PAIRS):
        seconds = {}
        for network in (a, b) if number % 2 else (b, a):
            seconds[network] = min(_seconds(network, images) for _ in range(3))
        ratios.append(seconds[a] / seconds[b])
    return ratios


def _seconds(network: nn.Module, images: torch.Tensor) -> float:
    start = time.thread_time()  # does not count the time of other processes
    network(images)
    return time.thread_time() - start


@contextmanager
def _one_thread() -> Iterator[None]:
    """Make torch use one thread in the whole process until the block ends.

    On a busy machine, the threads of a small operation mostly wait for each other.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


LISTING = NetworkConfig(norm="none", aux_dropout=0.5, aux_input_dropout=0.5)
"""Config of the network in the listing of the lecture notes, whose heads drop out twice."""


def dropout() -> Measured[Value]:
    """Read where and at which rates the auxiliary classifiers drop out, on which the sources contradict each other.

    Returns:
        The measured values by name:

        - `before fc2`, `before fc1`: the rates before the last and before the first linear layer without an option; 0
          if there is no dropout.
        - `before fc2, option`, `before fc1, option`: the same in the network `LISTING`.
        - `dropouts`, `dropouts, option`: how often a head drops out.
    """
    values: dict[str, Value] = {}
    for suffix, config in (("", PAPER), (", option", LISTING)):
        with torch.device("meta"):
            head = GoogLeNet(config).get_submodule("aux1")
        rates = {"before fc1": head.get_submodule("input_dropout"), "before fc2": head.get_submodule("dropout")}
        for place, module in rates.items():
            values[place + suffix] = module.p if isinstance(module, nn.Dropout) else 0.0
        values[f"dropouts{suffix}"] = sum(isinstance(module, nn.Dropout) for module in head.modules())
    return Measured(
        values=values,
        summary=f"one dropout of {values['before fc2']} by default; the option has two of "
        f"{values['before fc1, option']} and {values['before fc2, option']}",
        evidence="the sources contradict each other; the listing's head, which drops out before both linear layers, is "
        "the option `aux_input_dropout: 0.5, aux_dropout: 0.5`",
    )


def heads_alike() -> Measured[Value]:
    """Compare the layers of the two auxiliary classifiers, in training at 224x224.

    Returns:
        The measured values by name:

        - `layers`: number of layers of a head.
        - `differing layers`: number of layers that differ in kind, kernel, stride, padding, rate or number of outputs.
        - `first inputs`, `second inputs`: channels that enter the first and the second head.
        - `differing inputs`: number of layers that differ in the number of inputs.
    """
    with torch.device("meta"):
        network = GoogLeNet(PAPER)
    heads = [network.get_submodule(name) for name in ("aux1", "aux2")]
    layers = [[layer for layer in head.modules() if _is_layer(layer)] for head in heads]
    inputs = [[_inputs(layer) for layer in own if _inputs(layer)] for own in layers]
    shapes = cost(PAPER, training=True)
    outputs = [[layer.output_shape for layer in shapes.part(name).layers] for name in ("aux1", "aux2")]
    pairs = list(zip(*layers, strict=True))
    differing = sum(_without_inputs(a) != _without_inputs(b) for a, b in pairs)
    differing += sum(a != b for a, b in zip(*(own[1:] for own in outputs), strict=True))  # the pool keeps its channels
    return Measured(
        values={
            "layers": len(pairs),
            "differing layers": differing,
            "first inputs": inputs[0][0],
            "second inputs": inputs[1][0],
            "differing inputs": sum(a != b for a, b in zip(*inputs, strict=True)),
        },
        summary=f"{len(pairs) - differing} of {len(pairs)} layers alike; {inputs[0][0]} and {inputs[1][0]} channels "
        "enter",
        evidence="kind, kernel, stride, padding, rate and outputs of each layer; only the 1×1 convolution differs, in "
        "the number of its inputs",
    )


def _is_layer(module: nn.Module) -> bool:
    return not list(module.children()) and not isinstance(module, nn.Identity)


def _inputs(layer: nn.Module) -> int:
    """Return the number of inputs or input channels of a layer with weights, else 0."""
    return next((getattr(layer, name) for name in ("in_channels", "in_features") if hasattr(layer, name)), 0)


def _without_inputs(layer: nn.Module) -> tuple[object, ...]:
    """Return what characterises a layer but for the number of its inputs."""
    names = ("out_channels", "out_features", "kernel_size", "stride", "padding", "p", "grid", "paper")
    return (type(layer), *(getattr(layer, name, None) for name in names))


def depth() -> Measured[Value]:
    """Measure the depth of the network and count its building blocks.

    Returns:
        The measured values by name:

        - `layers with parameters`: number of convolutions and linear layers on the longest path from the image to the
          main classifier's logits.
        - `with pools`: the same with pools included.
        - `building blocks`: number of convolutions, linear layers, pools, concatenations and dropouts in the network
          with both auxiliary classifiers.
    """
    with torch.device("meta"):
        network = GoogLeNet(PAPER)
        evaluated = GoogLeNet(PAPER.model_copy(update={"aux": "none"})).eval()
    dropouts = sum(isinstance(module, nn.Dropout) for module in network.modules())
    blocks = len(cost(PAPER, training=True).layers) + dropouts
    layers = longest_path(evaluated, WITH_PARAMETERS)
    with_pools = longest_path(evaluated, WITH_PARAMETERS + POOLS)
    return Measured(
        values={"layers with parameters": layers, "with pools": with_pools, "building blocks": blocks},
        summary=f"{layers} / {with_pools} / {blocks}",
        evidence="longest paths of the graph; blocks: convolutions, linear, pools, concatenations and dropouts of the "
        f"training network (with the paper's 2 normalisations and 3 softmax, which are no modules here, {blocks + 5})",
    )


def receptive_field() -> Measured[Value]:
    """Measure the receptive field of the last Inception module in two ways.

    One way is recursion over the network's graph, the other the gradients of `FIELD_IMAGES` random images in a network
    with random weights. While gradients are computed, torch uses one thread in the whole process.

    Returns:
        The measured values by name:

        - `recursion`: side of the field in pixels, by recursion.
        - `recursion less gradients`: that side minus the largest side found from gradients, in pixels.
    """
    config = PAPER.model_copy(update={"aux": "none", "classes": 2})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = GoogLeNet(config).eval()
    fields = receptive_fields(network)
    field = fields[FIELD_OF]
    length = field.size + 4 * field.jump
    images = range(FIELD_IMAGES)
    with _one_thread():
        seen = max(receptive_field_by_gradient(network, FIELD_OF, length=length, seed=seed) for seed in images)
    first = next(name for name, field in fields.items() if field.size >= 224)
    return Measured(
        values={"recursion": field.size, "recursion less gradients": field.size - seen},
        summary=f"{field.size}×{field.size}",
        evidence=f"units of 5b, {field.jump} pixels apart; {seen} found from the gradients of {FIELD_IMAGES} images; "
        f"{first} is the first layer to see 224 or more",
    )


MEASUREMENTS: dict[str, StaticMeasurement] = {
    "output-shapes": output_shapes,
    "head-shapes": head_shapes,
    "branches": branches,
    "heads-at-evaluation": heads_at_evaluation,
    "dropout": dropout,
    "heads-alike": heads_alike,
    "depth": depth,
    "receptive-field": receptive_field,
}
