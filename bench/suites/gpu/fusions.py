"""Computes what fused kernels can gain in a training step on a GPU, from the arithmetic and the traffic of its layers.

The layers come from `reproduce.models.cost`. For the parts of a step that memory bandwidth limits, this module counts
the passes over the maps that torch's separate kernels make, and those that fused kernels make. Convolutions and linear
layers have the bound of the roofline. Each pass reads or writes a map once, and no cache keeps a map.

    python -m bench.suites.gpu.fusions      # regenerate the tables in docs/gpu-kernels.md
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from analysis.documents import REGION
from analysis.tables import Cell, Table, number
from bench.suites.step.inputs import port_network
from reproduce.models.cost import Cost, LayerCost, cost
from reproduce.models.roofline import Ceiling, roofline

DOCUMENT = Path(__file__).parents[3] / "docs" / "gpu-kernels.md"
CEILING = Ceiling(flops_per_s=780e12, bytes_per_s=4.1e12)
"""Measured on one NVIDIA H200: 766 to 792 TFLOP/s in bfloat16 and 4.12 to 4.16 TB/s (torch 2.11.0, 2026-11-26)."""
SIDE, BATCH, ELEMENT = 224, 256, 2  # pixels, images and bytes of a bfloat16
INDEX, TAP = 8, 1  # bytes of a place that torch's pools and ours store for the backward pass

POOL, NORM, PRODUCT = "max pool", "normalisation and ReLU", "convolutions and linear layers"
ADDS, JOIN, PIXELS = "sums of the branches' gradients", "concatenation", "pixels to bfloat16"
MEASURED_SHARE = {POOL: 0.237 + 0.131, NORM: 0.21 + 0.05, ADDS: 0.056, JOIN: 0.018, PRODUCT: 0.25}
"""Shares of the device's time in an eager step before there were fused kernels, on the same H200 on the same day."""
MEASURED_STEP_MS = 38.0


@dataclass(frozen=True)
class Traffic:
    """Bytes that a part of a training step moves for one image, forward and backward together."""

    torch: float
    """With torch's kernels."""
    fused: float
    """With fused kernels."""

    def __add__(self, other: Traffic) -> Traffic:
        return Traffic(self.torch + other.torch, self.fused + other.fused)


NOTHING = Traffic(0, 0)


def norm_traffic(layer: LayerCost) -> Traffic:
    """Count the traffic of a batch normalisation with its ReLU, in bfloat16.

    torch: the statistics read x; the transform reads x and writes y; ReLU reads and writes y. Backwards, ReLU reads y
    and the gradient and writes one, the sums read that and x, and the last pass reads both again and writes a gradient.
    Fused: statistics 1 and transform 2; backwards, sums 2 and last pass 3, which recompute from x what ReLU let pass.
    """
    size = ELEMENT * layer.input_elements
    return Traffic(13 * size, 8 * size)


def pool_traffic(layer: LayerCost) -> Traffic:
    """Count the traffic of a max pool in bfloat16.

    torch keeps a place of eight bytes for each output, and fills the gradient with zeros before it adds to it. Fused
    kernels keep one byte and write each gradient once.
    """
    source, pooled = layer.input_elements, math.prod(layer.output_shape)
    return Traffic(
        ELEMENT * source + (ELEMENT + INDEX) * pooled + 3 * ELEMENT * source + (ELEMENT + INDEX) * pooled,
        ELEMENT * source + (ELEMENT + TAP) * pooled + ELEMENT * source + (ELEMENT + TAP) * pooled,
    )


def join_traffic(layer: LayerCost) -> Traffic:
    """Count the traffic of a concatenation: a copy with torch, and nothing if the branches write into their places."""
    return Traffic(2 * ELEMENT * layer.input_elements, 0)


def adds_traffic(source_elements: int) -> Traffic:
    """Count the traffic of adding the gradients that a module's four branches give to its input.

    torch adds them in three passes, each of which reads two maps and writes one. Written and added in place, each of
    the last three is written where it reads the sum so far, which costs one more read for each.
    """
    return Traffic(9 * ELEMENT * source_elements, 3 * ELEMENT * source_elements)


@dataclass(frozen=True, kw_only=True)
class Place:
    """A layer of the stem, a module or a classifier: what it computes and moves for one image."""

    name: str
    flops: float
    """Of convolutions and linear layers, forward and backward."""
    products_s: float
    """Lower bound for their time in seconds, by the roofline of each layer."""
    norm: Traffic
    pool: Traffic
    other: Traffic
    """Sums of the branches' gradients, and the concatenation."""


def places(costs: Cost) -> list[Place]:
    """Sum the costs of a network in training by layer of the stem, Inception module and classifier, in their order."""
    bounds = {
        bound.name: bound.seconds
        for bound in roofline(costs, CEILING, batch=BATCH, training=True, element_bytes=ELEMENT)
    }
    groups: dict[str, list[LayerCost]] = {}
    for layer in costs.layers:
        groups.setdefault(layer.name.partition(".")[0], []).append(layer)
    found = []
    for name, layers in groups.items():
        products = [layer for layer in layers if layer.kind in ("convolution", "linear")]
        joins = [layer for layer in layers if layer.kind == "concatenation"]
        other = sum(map(join_traffic, joins), NOTHING)
        if joins:  # a module, whose first layer reads the module's input
            other += adds_traffic(layers[0].input_elements)
        found.append(
            Place(
                name=name,
                flops=sum(6.0 * layer.macs for layer in layers),
                products_s=sum(bounds[layer.name] for layer in products),
                norm=sum((norm_traffic(layer) for layer in layers if layer.kind == "norm"), NOTHING),
                pool=sum((pool_traffic(layer) for layer in layers if layer.kind == "max pool"), NOTHING),
                other=other,
            )
        )
    return found


def parts(costs: Cost) -> dict[str, tuple[float, float]]:
    """Compute the expected milliseconds of a step of `BATCH` images by part: with torch's kernels, and fused."""
    kinds: dict[str, Traffic] = dict.fromkeys((POOL, NORM, ADDS, JOIN), NOTHING)
    by_kind: dict[str, tuple[str, Callable[[LayerCost], Traffic]]] = {
        "max pool": (POOL, pool_traffic),
        "norm": (NORM, norm_traffic),
        "concatenation": (JOIN, join_traffic),
    }
    for layer in costs.layers:
        if layer.kind in by_kind:
            part, traffic = by_kind[layer.kind]
            kinds[part] += traffic(layer)
    for layer in costs.layers:
        if layer.kind == "max pool" and ".branch4" in layer.name:  # it reads the module's input
            kinds[ADDS] += adds_traffic(layer.input_elements)
    pixels = costs.layers[0].input_elements
    kinds[PIXELS] = Traffic((1 + ELEMENT) * pixels, (1 + ELEMENT) * pixels)
    products = _milliseconds(sum(place.products_s for place in places(costs)))
    times = {name: (_ms_of(traffic.torch), _ms_of(traffic.fused)) for name, traffic in kinds.items()}
    return {PRODUCT: (products, products), **times}


def _milliseconds(seconds_per_image: float) -> float:
    return 1e3 * BATCH * seconds_per_image


def _ms_of(bytes_per_image: float) -> float:
    return _milliseconds(bytes_per_image / CEILING.bytes_per_s)


def parts_table(costs: Cost) -> Table:
    """Tabulate `parts` with the measured times of torch's kernels, and their sums with the images/s they stand for."""
    found = parts(costs)
    rows = [
        (name, [before, after, MEASURED_STEP_MS * MEASURED_SHARE.get(name, math.nan)])
        for name, (before, after) in found.items()
    ]
    totals = [sum(times) for times in zip(*found.values(), strict=True)]
    rows.append(("together", [*totals, MEASURED_STEP_MS]))
    cells = [[Cell(name), *(Cell(number(ms, 1)) for ms in times)] for name, times in rows]
    speeds = [1e3 * BATCH / ms for ms in (*totals, MEASURED_STEP_MS)]
    cells.append([Cell("images/s"), *(Cell(number(speed)) for speed in speeds)])
    columns = ["part", "bound, torch's kernels, ms", "bound, fused, ms", "measured, torch's kernels, ms"]
    return Table("", columns, cells)


def places_table(costs: Cost) -> Table:
    """Tabulate `places` for a step of `BATCH` images."""
    columns = [
        *("layer or module", "GFLOP", "products, ms"),
        *("norm, GB: torch", "fused", "pool, GB: torch", "fused", "other, GB: torch", "fused", "saved, ms"),
    ]
    rows = []
    for place in places(costs):
        traffics = (place.norm, place.pool, place.other)
        sizes = [1e-9 * BATCH * size for traffic in traffics for size in (traffic.torch, traffic.fused)]
        saved = _ms_of(sum(traffic.torch - traffic.fused for traffic in traffics))
        texts = [number(1e-9 * BATCH * place.flops), number(_milliseconds(place.products_s), 2)]
        rows.append([place.name, *texts, *(number(size, 2) for size in sizes), number(saved, 2)])
    return Table("", columns, [[Cell(text) for text in row] for row in rows])


TABLES: dict[str, Callable[[Cost], Table]] = {"parts": parts_table, "places": places_table}


def filled(text: str) -> str:
    """Return the text of docs/gpu-kernels.md with its tables regenerated. No file is written."""
    costs = cost(port_network(SIDE), training=True)

    def region(match: re.Match[str]) -> str:
        name = match["name"]
        return f"<!-- generated: {name} -->\n\n{TABLES[name](costs).markdown()}\n\n<!-- end -->"

    return REGION.sub(region, text)


def main() -> None:
    """Regenerate the tables of docs/gpu-kernels.md."""
    DOCUMENT.write_text(filled(DOCUMENT.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
