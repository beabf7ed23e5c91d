"""Static measurements of structure: shapes, branches, auxiliary classifiers, depth and receptive field."""

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
"""Heights of the maps on which branches are compared. The widths are the same numbers in reverse order."""
LATENCY_PAIRS, LATENCY_SIDE = 15, 112
FIELD_OF = "inception5b"
FIELD_IMAGES = 2


def output_shapes() -> Measured[Value]:
    """The output of each layer, as height, width and channels."""
    layers = cost(PAPER, training=True).layers
    shapes = {layer.name: (layer.output_shape[1], layer.output_shape[2], layer.output_shape[0]) for layer in layers}
    return Measured(
        values=shapes,
        summary=f"224×224×3 to {value_text(shapes['inception5b'])} to {value_text(shapes['fc'])}",
        evidence="traced at 224×224; the max pools of stride 2 round up, as Caffe's do",
    )


def head_shapes() -> Measured[Value]:
    """The output of each layer of the auxiliary classifiers."""
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
    """On how many maps the four branches of a module differ in size, over sizes of the input and kinds of reduction."""
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
    """A network with auxiliary classifiers compared with one without, both from one seed and evaluated."""
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
    """The time of `a` over that of `b` in each of several pairs, whose order alternates."""
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
    """Make torch use one thread: on a busy machine, the threads of a small operation mostly wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def dropout() -> Measured[Value]:
    """The dropout rate of the auxiliary classifiers, by default and with the option for the other source."""
    with torch.device("meta"):
        rates = {
            name: submodule(GoogLeNet(config), "aux1.dropout", nn.Dropout).p
            for name, config in (("default", PAPER), ("aux_dropout: 0.5", NetworkConfig(aux_dropout=0.5)))
        }
    return Measured(
        values=rates,
        summary=f"{rates['default']} by default, {rates['aux_dropout: 0.5']} as an option",
        evidence="the sources contradict each other; the listing's network is `aux_dropout: 0.5`",
    )


def depth() -> Measured[Value]:
    """The number of layers on the longest path, with and without pools, and the number of building blocks."""
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
    """The receptive field of the last module, by recursion over the graph and from gradients of a random network."""
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
    "depth": depth,
    "receptive-field": receptive_field,
}
