"""Defines how the figures of a report look, and converts them to SVG and PNG.

Figures are drawn in the colours of light pages. In the SVG of the report's page, variables of the page's style replace
them, so that a figure is legible on a dark page as well. Matplotlib's global settings are changed while a figure is
drawn or converted, so these functions must not run in several threads.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FixedLocator, NullFormatter

INK, FAINT, PAPER = "#1d2127", "#dfe1e4", "#ffffff"
"""Colours of text, of grids and bands, and of the ground."""
PALETTE = [
    ("#0067a5", "#5aaeea"),
    ("#c2500a", "#f0883e"),
    ("#00845f", "#3fc69b"),
    ("#a8518a", "#e08cc4"),
    ("#7a6a00", "#d6c33a"),
    ("#5b5f6b", "#a9aebb"),
    ("#3f3fae", "#9a9af5"),
    ("#a01f35", "#ff7f8f"),
]
"""Colours of the arms on light and on dark pages, for colour-blind readers after the palette of Okabe and Ito."""
MARKERS = ["o", "s", "^", "D", "v", "P", "X", "*"]
"""Markers of the arms, as Matplotlib names them."""
DASHES: list[tuple[float, ...]] = [(), (5, 2), (1.2, 1.4), (6, 1.6, 1.2, 1.6)]
"""Line styles of the arms: lengths of dashes and gaps in units of the line's width. The first is a solid line."""
WIDTH, HEIGHT = 4.5, 3.1
"""Size of a panel in inches. It is about as wide as the screen of a phone, so that text keeps its size there."""

STYLE: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.size": 9.5,
    "axes.labelsize": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.6,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": FAINT,
    "grid.linewidth": 0.6,
    "text.color": INK,
    "text.parse_math": False,
    "xtick.color": INK,
    "ytick.color": INK,
    "lines.linewidth": 1.8,
    "lines.markersize": 5,
    "svg.fonttype": "none",
    "svg.hashsalt": "deeper",
    "figure.constrained_layout.use": True,
}


@dataclass(frozen=True, kw_only=True)
class Readout:
    """The values of a figure, which the page shows for the position of the pointer or of a slider."""

    unit: str
    """What the positions are, for example "epoch"."""
    labels: Sequence[str]
    """The positions as text, from left to right."""
    positions: Sequence[float]
    """The places of the positions, as fractions of the figure's width."""
    values: Sequence[tuple[int, Sequence[str]]]
    """For each arm that is drawn, its index and its values as text, one for each position, empty if there is none."""


@dataclass(frozen=True, kw_only=True)
class Plot:
    """A figure of the report, with a title and a caption."""

    name: str
    """A name that no other figure of the report has. It is the name of the figure's files."""
    title: str
    caption: str
    figure: Figure = field(repr=False, compare=False)
    readout: Readout | None = None

    @property
    def svg(self) -> str:
        """The figure as an SVG element for the report's page."""
        return _inline(self.svg_file, self.name)

    @cached_property
    def svg_file(self) -> str:
        """The figure as an SVG file of its own, on a white ground."""
        _settle(self.figure)
        return _svg(self.figure)

    @property
    def png_file(self) -> bytes:
        """The figure as a PNG file, on a white ground, with 200 dots per inch."""
        buffer = io.BytesIO()
        _settle(self.figure)
        self.figure.dpi = 200
        with mpl.rc_context(STYLE):
            FigureCanvasAgg(self.figure).print_png(buffer, metadata={"Software": None})  # type: ignore[no-untyped-call]
        return buffer.getvalue()


def colour(index: int) -> str:
    """Return the colour of the arm with this index, counted from 0, on light pages.

    Arms beyond the end of `PALETTE` get the first colours again, with other markers and other line styles.
    """
    return PALETTE[index % len(PALETTE)][0]


def marker(index: int) -> str:
    """Return the marker of the arm with this index, counted from 0.

    No two of the first 64 arms have the same colour and the same marker.
    """
    return MARKERS[(index + index // len(PALETTE)) % len(MARKERS)]


def dashes(index: int) -> tuple[float, ...]:
    """Return the line style of the arm with this index, counted from 0, as an element of `DASHES`."""
    return DASHES[index // len(PALETTE) % len(DASHES)]


def line(index: int) -> dict[str, Any]:
    """Return Matplotlib's arguments for a line of the arm with this index: colour, line style and name of its group."""
    pattern = dashes(index)
    return {"color": colour(index), "linestyle": (0, pattern) if pattern else "-", "gid": f"arm-{index}"}


def panel(height: float = HEIGHT) -> tuple[Figure, Axes]:
    """Create a figure with one pair of axes. Call it, and draw, within `matplotlib.rc_context(STYLE)`."""
    figure = Figure(figsize=(WIDTH, height))
    return figure, figure.subplots()


def log_scale(axes: Axes) -> None:
    """Make the y axis logarithmic. If its range is small, label values between the powers of ten as well."""
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    exponents = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
    if len(exponents) < 5:
        steps = (1, 2, 5) if high > 8 * low else range(1, 10)
        ticks = [step * 10.0**e for e in exponents for step in steps]
        axes.yaxis.set_major_locator(FixedLocator([tick for tick in ticks if low <= tick <= high]))
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.yaxis.set_minor_formatter(NullFormatter())


def places(figure: Figure, axes: Axes, x: Sequence[float]) -> list[float]:
    """Return where positions on the x axis lie, as fractions of the figure's width. The figure must be finished."""
    _settle(figure)
    pixels = axes.transData.transform([(value, axes.get_ylim()[0]) for value in x])[:, 0]
    return [round(float(pixel / figure.bbox.width), 4) for pixel in pixels]


def _settle(figure: Figure) -> None:
    """Lay out a figure that is finished, once: otherwise each drawing does it again, which takes most of its time."""
    engine = figure.get_layout_engine()
    if not isinstance(engine, ConstrainedLayoutEngine):
        return
    with mpl.rc_context(STYLE):
        engine.execute(figure)
    figure.set_layout_engine("none")


def _svg(figure: Figure) -> str:
    buffer = io.StringIO()
    metadata = {"Date": None, "Creator": None}
    with mpl.rc_context(STYLE):  # `savefig` would draw everything once more, to lay it out
        FigureCanvasSVG(figure).print_svg(buffer, metadata=metadata)  # type: ignore[no-untyped-call]
    return buffer.getvalue()


def _inline(svg: str, name: str) -> str:
    """Convert an SVG file to an element with the colours of the page and with ids that no other figure has.

    Groups of the lines of an arm get the class `arm-INDEX`.
    """
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*pt"', r"\1", svg)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*pt"', r"\1", svg)
    svg = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px", svg)
    svg = re.sub(r'<g id="patch_1">.*?</g>', "", svg, count=1, flags=re.DOTALL)  # the ground
    svg = re.sub(r'<g id="arm-(\d+)"', r'<g class="arm-\1"', svg)
    svg = re.sub(r'<g id="[^"]*">', "<g>", svg)
    svg = re.sub(r"(\d+\.\d\d)\d+", r"\1", svg)
    svg = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{re.sub(r'[^a-z0-9]', '-', name.lower())}-", svg)
    variables = {INK: "var(--ink)", FAINT: "var(--line)", PAPER: "var(--card)"}
    variables |= {light: f"var(--arm-{i})" for i, (light, _) in enumerate(PALETTE)}
    return re.sub("|".join(variables), lambda found: variables[found[0]], svg)
