"""What every suite shares: interleaved rounds, their ratios, and a result that says where it comes from."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.environment import environment


def interleave(
    contestants: Mapping[str, Callable[[int], float]], *, rounds: int, console: Console
) -> dict[str, list[float]]:
    """Images/s of each contestant in every round, A B A B ...; a round before the first warms up and is dropped."""
    speeds: dict[str, list[float]] = {name: [] for name in contestants}
    start = time.monotonic()
    for index in range(rounds + 1):
        for name, measure in contestants.items():
            speed = measure(index)
            if index:
                speeds[name].append(speed)
        if index:
            left = (time.monotonic() - start) / (index + 1) * (rounds - index)
            figures = ", ".join(f"{name} {values[-1]:.1f}" for name, values in speeds.items())
            console.print(f"round {index} of {rounds}: {figures} images/s; about {left:.0f} s left", highlight=False)
        else:
            console.print("warmed up", highlight=False)
    return speeds


def report(
    title: str, speeds: Mapping[str, list[float]], *, goal: float, setting: Mapping[str, Any], output: Path | None
) -> int:
    """Print medians and the ratio of the first contestant to the second; 1 where the goal is missed."""
    ours, peer = speeds
    ratios = [a / b for a, b in zip(speeds[ours], speeds[peer], strict=True)]
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("", "median", "least", "most"):
        table.add_column(column, justify="right" if column else "left")
    for name, values in speeds.items():
        table.add_row(f"{name}, images/s", f"{median(values):.1f}", f"{min(values):.1f}", f"{max(values):.1f}")
    table.add_row(f"{ours} / {peer}", f"{median(ratios):.3f}", f"{min(ratios):.3f}", f"{max(ratios):.3f}")
    console = Console()
    console.print(f"{title}, {len(ratios)} interleaved rounds", highlight=False)
    console.print(table)
    reached = median(ratios) >= goal
    console.print(f"goal {goal}: {'reached' if reached else 'missed'}", highlight=False)
    if output is not None:
        content = {
            "title": title,
            "date": time.strftime("%Y-%m-%d"),
            "rounds": len(ratios),
            "images_per_s": speeds,
            "ratios": ratios,
            "ratio_median": median(ratios),
            "goal": goal,
            "setting": setting,
            "environment": environment(),
        }
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(json.dumps(content, indent=1) + "\n")
        console.print(f"raw results: {output}", highlight=False)
    return 0 if reached else 1
