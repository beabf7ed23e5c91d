"""Gives each arm a colour in which MLflow draws its runs."""

from __future__ import annotations

from collections.abc import Sequence

from bench.records.plan import PlanEntry

COLOURS = (
    *("#0072b2", "#e69f00", "#009e73", "#d55e00", "#cc79a7", "#56b4e9"),
    *("#0000ff", "#3c2d00", "#0f0f96", "#2d2d3c", "#6969ff", "#5ac369"),
    *("#002d69", "#875a2d", "#4b4b3c", "#6996ff", "#784b78", "#2d2dd2"),
)
"""Colours for 18 arms.

The first six are those of Okabe and Ito (Color Universal Design, 2008). Each of the others is the one that is farthest
from all before it in CIELAB, as it is and as protanopes and deuteranopes see it (simulated after Machado et al., 2009).
"""


def colours_of_arms(plan: Sequence[PlanEntry]) -> dict[str, str]:
    """Assign each arm, in the order of the plan, a colour such as "#0072b2". Colours repeat after the last of them."""
    arms = dict.fromkeys(entry.arm for entry in plan)
    return {arm: COLOURS[index % len(COLOURS)] for index, arm in enumerate(arms)}
