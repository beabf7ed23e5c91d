"""Writes the report that compares two sides: a page, Markdown, CSV files, LaTeX tables and figures."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from analysis.report.comparing.content import Comparison, compare
from analysis.report.comparing.sides import Side
from analysis.report.figures.contrasts import beside
from analysis.report.figures.curves import learning_curves
from analysis.report.figures.style import Plot
from analysis.report.rendering.files import write_folder
from analysis.report.rendering.page import fill_template, keys
from analysis.tables import is_missing, percent
from reproduce.text.markdown import as_markdown

MOST_CURVES = 10
"""Number of arms on both sides together up to which learning curves are drawn."""
FIGURES = ("sides", "top1-by-epoch", "loss-by-epoch")
"""The names that figures may have."""


def write_comparison(a: Side, b: Side, out: Path) -> Path:
    """Write the report that compares two sides and return the path of its page, index.html.

    Args:
        a: One side.
        b: The other side.
        out: The folder. It is created if necessary, and files of an earlier report in it are overwritten.

    Raises:
        AnalysisError: The folder holds files that are not of a report, or cannot be written.
    """
    comparison = compare(a, b)
    figure = beside(comparison.arms)
    sides, lines = [figure] if figure else [], _lines(comparison)
    curves = learning_curves(*_epochs(comparison, lines)) if lines else []
    method, command = _method(comparison), f"deeper report {shlex.quote(a.text)} {shlex.quote(b.text)}"
    page = fill_template(
        "comparison.html.j2",
        comparison=comparison,
        sides=sides,
        curves=curves,
        method=method,
        command=command,
        keys=keys(lines),
    )
    plots = [*sides, *curves]
    texts = {"index.html": page, "results.md": _markdown(comparison, plots, method, command)}
    frames = {"arms": comparison.arms, "effects": comparison.effects, "differences": comparison.differences}
    texts |= {f"{name}.csv": frame.to_csv(index=False) for name, frame in frames.items()}
    texts |= {f"tables/{name}.tex": table.latex(name) for name, table in comparison.tables.items() if table.rows}
    texts |= {f"figures/{plot.name}.svg": plot.svg_file for plot in plots}
    pictures = {f"figures/{plot.name}.png": plot.png_file for plot in plots}
    stale = [f"tables/{name}.tex" for name in comparison.tables]
    stale += [f"figures/{name}.{kind}" for name in FIGURES for kind in ("svg", "png")]
    return write_folder(out, texts, pictures, stale)


def _lines(comparison: Comparison) -> list[str]:
    """Name the learning curves: each shared arm on both sides. There are none if these are too many."""
    arms = [one.effect for one in comparison.decisions]
    names = [f"{arm}, {side.letter}" for arm in arms for side in (comparison.a, comparison.b)]
    return names if len(names) <= MOST_CURVES else []


def _epochs(comparison: Comparison, lines: Sequence[str]) -> tuple[pd.DataFrame, Sequence[str], set[str]]:
    """Gather the epochs of the finished runs of both sides, with an arm for each curve, for `learning_curves`."""
    frames, finished = [], set()
    for side in (comparison.a, comparison.b):
        epochs, ids = side.recorded.finite_epochs, set(side.recorded.finished["run_id"])
        own = epochs[epochs["run_id"].isin(ids)]
        # One run may be on both sides, so that its id alone does not tell which curve it belongs to.
        frames.append(own.assign(arm=own["arm"] + f", {side.letter}", run_id=own["run_id"] + side.letter))
        finished |= {f"{run_id}{side.letter}" for run_id in ids}
    epochs = pd.concat(frames, ignore_index=True)
    return epochs[epochs["arm"].isin(lines)], lines, finished


def _method(comparison: Comparison) -> str:
    paired = comparison.a.recorded.settings.paired and comparison.b.recorded.settings.paired
    sentences = [
        "Intervals are Student's t intervals of 95 % over finished runs; a single run has none.",
        "Each seed gives one difference (paired t test), as both experiments ask."
        if paired
        else "Each arm of each side has a variance of its own (Welch's test, Satterthwaite's degrees of freedom).",
    ]
    if len(comparison.decisions) > 1:
        sentences.append("The arms are corrected together by Holm's method (1979); intervals are not corrected.")
    margin = comparison.decisions[0].margin if comparison.decisions else None
    if not is_missing(margin):
        sentences.append(
            f"Within the margin of {percent(float(margin or 0), 1)} points, which both experiments name, sides are "
            "tested for equivalence by two one-sided tests (Schuirmann 1987), corrected together as well."
        )
    return " ".join(sentences)


def _markdown(comparison: Comparison, plots: Sequence[Plot], method: str, command: str) -> str:
    blocks = [f"### {as_markdown(comparison.a.text)} and {as_markdown(comparison.b.text)}"]
    for title, sentences in (
        ("What this comparison shows", comparison.findings.found),
        ("What cannot be concluded", comparison.findings.open),
    ):
        if sentences:
            blocks.append(f"#### {title}\n\n" + "\n".join(f"- {as_markdown(sentence)}" for sentence in sentences))
    blocks += [f"**{table.caption}.**\n\n{table.markdown()}" for table in comparison.tables.values() if table.rows]
    blocks += [f"**{plot.title}.**\n\n![{plot.title}](figures/{plot.name}.png)\n\n{plot.caption}" for plot in plots]
    blocks += [method, f"Made by `{command}`."]
    return "\n\n".join(blocks) + "\n"
