"""Renders a report as an HTML page that fetches nothing: styles, script and figures are in it."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from typing import Any

import jinja2

from analysis.comparisons.methods import MEASURED
from analysis.report.figures import style
from analysis.report.rendering.plots import Plots
from analysis.report.sections import Sections
from analysis.tables import DASH

MARKS = {
    "o": '<circle cx="13" cy="6" r="3.6"/>',
    "s": '<path d="M9.6 2.6h6.8v6.8H9.6Z"/>',
    "^": '<path d="M13 1.8 17.2 9.6H8.8Z"/>',
    "D": '<path d="M13 1.4 17.4 6 13 10.6 8.6 6Z"/>',
    "v": '<path d="M13 10.2 17.2 2.4H8.8Z"/>',
    "P": '<path d="M11.5 2h3v2.5H17v3h-2.5V10h-3V7.5H9v-3h2.5Z"/>',
    "X": '<path d="M9.5 4 11 2.5l2 2 2-2L16.5 4l-2 2 2 2L15 9.5l-2-2-2 2L9.5 8l2-2Z"/>',
    "*": '<path d="M13 1.2l1.4 3.3h3.4l-2.7 2.1 1 3.4-3.1-2.1-3.1 2.1 1-3.4-2.7-2.1h3.4Z"/>',
}
"""The markers of arms as SVG."""


@dataclass(frozen=True)
class Key:
    """The entry of an arm in a legend."""

    index: int
    """The index of the arm, which names it in the script and in classes."""
    arm: str
    colour: int
    """The index of its colour in `style.PALETTE`."""
    mark: str
    """Its marker as SVG."""
    dashes: str
    """Its line style, as the value of `stroke-dasharray`; empty for a solid line."""


def keys(arms: list[str]) -> list[Key]:
    """Build the legend of the arms."""
    return [
        Key(
            index,
            arm,
            index % len(style.PALETTE),
            MARKS[style.marker(index)],
            " ".join(f"{1.6 * length:g}" for length in style.dashes(index)),
        )
        for index, arm in enumerate(arms)
    ]


def render_page(sections: Sections, plots: Plots) -> str:
    """Render the report as a page that states the current time as its date."""
    return fill_template(
        "report.html.j2",
        sections=sections,
        recorded=sections.recorded,
        plots=plots,
        keys=keys(sections.recorded.arms),
        measured=MEASURED,
    )


def fill_template(name: str, **content: Any) -> str:
    """Fill a template of a page, which states the current time as its date.

    Args:
        name: The file of the template in `analysis/templates`.
        content: What the template refers to. `keys` are the entries of the legend.
    """
    templates = jinja2.Environment(
        loader=jinja2.PackageLoader("analysis"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_unbroken,
    )
    return templates.get_template(name).render(
        palette=style.PALETTE, made=time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()), dash=DASH, **content
    )


def _unbroken(value: Any) -> Any:
    """Join a number and its percent sign, so that no line ends between them; markup stays as it is."""
    if isinstance(value, str) and not hasattr(value, "__html__"):
        return re.sub(r"(?<=\d) (?=%)", "\N{NO-BREAK SPACE}", value)
    return value
