"""Writes the files of a report: index.html, results.md, CSV files, LaTeX tables and figures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from analysis.details.repeating import FILE, MADE
from analysis.frames import AnalysisError
from analysis.report.rendering.document import document_tables, render_markdown
from analysis.report.rendering.page import render_page
from analysis.report.rendering.plots import draw_plots
from analysis.report.sections import Sections
from analysis.summaries import within_range

MARK = b"deeper report"
"""Text that the page and the Markdown of every report contain: the command that makes them."""
FIGURES = (
    *("effects", "interaction", "top1-by-epoch", "loss-by-epoch", "time-to-target", "gradient-by-stage"),
    *("gradient-by-epoch", "telemetry", "throughput", "top1-against-multiply-adds", "top1-against-parameters"),
    *("top1-against-training-throughput", "top1-against-energy"),
)
"""The names that figures may have."""


def write_files(sections: Sections, out: Path) -> Path:
    """Write all files of a report into a folder and return the path of its page, index.html.

    Args:
        sections: The content of the report.
        out: The folder. It is created if necessary, and files of an earlier report in it are overwritten.

    Raises:
        AnalysisError: The folder holds files that would be overwritten and are not of a report, or cannot be written.
    """
    frames = {
        "runs": sections.recorded.runs,
        "epochs": sections.recorded.epochs,
        "arms": within_range(sections.summary),
        "effects": sections.effects,
    }
    plots = draw_plots(sections)
    tables = {name: table for name, table in document_tables(sections).items() if table.rows}
    # First what marks a report.
    texts = {"index.html": render_page(sections, plots), "results.md": render_markdown(sections, plots)}
    texts |= {f"{name}.csv": frame.to_csv(index=False) for name, frame in frames.items()}
    texts |= {f"tables/{name}.tex": table.latex(name) for name, table in tables.items()}
    texts |= {f"figures/{plot.name}.svg": plot.svg_file for plot in plots}
    if sections.experiment_file:
        texts[FILE] = sections.experiment_file
    stale = {f"tables/{name}.tex" for name in document_tables(sections)}
    stale |= {f"figures/{name}.{kind}" for name in FIGURES for kind in ("svg", "png")}
    pictures = {f"figures/{plot.name}.png": plot.png_file for plot in plots}
    return write_folder(out, texts, pictures, stale)


def write_folder(out: Path, texts: Mapping[str, str], pictures: Mapping[str, bytes], stale: Iterable[str]) -> Path:
    """Write the files of a report into a folder and return the path of its page, index.html.

    Args:
        out: The folder. It is created if necessary, and files of an earlier report in it are overwritten.
        texts: Texts by the paths of their files in the folder, first what marks a report.
        pictures: Pictures by the paths of their files.
        stale: Paths that an earlier report may have and that are removed where this one does not have them.

    Raises:
        AnalysisError: The folder holds files that would be overwritten and are not of a report, or cannot be written.
    """
    try:
        _check_foreign(out, [*texts, *pictures])
        for folder in ("tables", "figures"):
            (out / folder).mkdir(parents=True, exist_ok=True)
        _remove_earlier(out, {*texts, *pictures}, stale)
        for name, text in texts.items():
            (out / name).write_text(text, encoding="utf-8", errors="backslashreplace")
        for name, picture in pictures.items():
            (out / name).write_bytes(picture)
    except OSError as error:
        raise AnalysisError(f"--output: {out} cannot be written: {error.strerror}; name another folder") from error
    return out / "index.html"


def _remove_earlier(out: Path, names: set[str], stale: Iterable[str]) -> None:
    """Remove tables, figures and the experiment file of an earlier report that this one does not have."""
    possible = list(stale)
    file = out / FILE
    if file.is_file() and file.read_text(encoding="utf-8", errors="replace").startswith(MADE):
        possible.append(FILE)
    for name in possible:
        if name not in names:
            (out / name).unlink(missing_ok=True)


def _check_foreign(out: Path, names: Iterable[str]) -> None:
    """Raise `AnalysisError` if a file would be overwritten that is not of an earlier report."""
    foreign = [name for name in names if (out / name).exists()]
    marked = (out / name for name in ("index.html", "results.md") if (out / name).is_file())
    if foreign and not any(MARK in path.read_bytes() for path in marked):
        raise AnalysisError(
            f"--output: {out} holds {foreign[0]}, which is not of a report and would be overwritten; "
            "name another folder, or move the file away"
        )
