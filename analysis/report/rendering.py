"""Writes the files of a report: index.html, results.md, CSV files and LaTeX tables.

The page is self-contained: styles, script and figures are inlined, and nothing is fetched.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path

import jinja2

from analysis.frames import AnalysisError
from analysis.report import figures
from analysis.report.sections import Sections
from analysis.tables import DASH, counted
from reproduce.text.markdown import as_markdown

MARK = b"deeper report"
"""Text that the page and the Markdown of every report contain: the command that makes them."""


def write_files(sections: Sections, out: Path) -> Path:
    """Write all files of a report into a folder and return the path of its page, index.html.

    Args:
        sections: The content of the report.
        out: The folder. It is created if necessary, and files of an earlier report in it are overwritten.

    Raises:
        AnalysisError: The folder holds files that would be overwritten and are not of a report, or cannot be written.
    """
    tables = {"results": sections.results_table}
    if sections.effects_table.rows:
        tables["effects"] = sections.effects_table
    frames = {
        "runs": sections.recorded.runs,
        "epochs": sections.recorded.epochs,
        "arms": sections.summary,
        "effects": sections.effects,
    }
    texts = {"index.html": render_page(sections), "results.md": render_markdown(sections)}  # first what marks a report
    texts |= {f"{name}.csv": frame.to_csv(index=False) for name, frame in frames.items()}
    texts |= {f"tables/{name}.tex": table.latex(name) for name, table in tables.items()}
    try:
        _check_foreign(out, texts)
        (out / "tables").mkdir(parents=True, exist_ok=True)
        if "effects" not in tables:
            (out / "tables" / "effects.tex").unlink(missing_ok=True)  # of an earlier report
        for name, text in texts.items():
            (out / name).write_text(text, encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise AnalysisError(f"--output: {out} cannot be written: {error.strerror}; name another folder") from error
    return out / "index.html"


def _check_foreign(out: Path, names: Iterable[str]) -> None:
    """Raise `AnalysisError` if a file would be overwritten that is not of an earlier report."""
    foreign = [name for name in names if (out / name).exists()]
    marked = (out / name for name in ("index.html", "results.md") if (out / name).is_file())
    if foreign and not any(MARK in path.read_bytes() for path in marked):
        raise AnalysisError(
            f"--output: {out} holds {foreign[0]}, which is not of a report and would be overwritten; "
            "name another folder, or move the file away"
        )


def render_page(sections: Sections) -> str:
    """Render the report as a self-contained HTML page that states the current time as its date."""
    recorded = sections.recorded
    epochs = recorded.finite_epochs
    templates = jinja2.Environment(
        loader=jinja2.PackageLoader("analysis"), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    return templates.get_template("report.html.j2").render(
        experiment=recorded.experiment,
        description=recorded.description,
        made=time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        sections=sections,
        forest=figures.forest(sections.top1_effects),
        legend=[(arm, i, figures.marker(i)) for i, arm in enumerate(recorded.arms)],
        palette=figures.PALETTE,
        curves=figures.learning_curves(epochs, recorded.arms, finished=set(recorded.finished["run_id"])),
        cost=figures.against_cost(sections.summary),
        gradients=figures.gradients(epochs, recorded.arms, recorded.not_finite),
        seeds=sorted(recorded.runs["seed"].unique()),
        dash=DASH,
    )


def render_markdown(sections: Sections) -> str:
    """Render the report's tables and a line on the runs' environment as Markdown, for use in other documents."""
    recorded = sections.recorded
    facts = [f"n = {len(recorded.finished)} finished of {len(recorded.runs)} runs"]
    if recorded.choice.plan is not None and recorded.notices:
        facts.append(f"plan {recorded.choice.plan}, {counted(recorded.others, 'other run')} left out")
    facts += [
        f"{name.lower()}: {as_markdown(value)}"
        for name, value in sections.environment
        if value != DASH and name != "Tracking"
    ]
    tables = [sections.results_table]
    if sections.effects_table.rows:
        tables.append(sections.effects_table)
    blocks = [f"### {recorded.experiment}"]
    blocks += [f"**{table.caption}.**\n\n{table.markdown()}" for table in tables]
    blocks += ["; ".join(facts) + ".", f"Made by `deeper report {recorded.experiment}`."]
    return "\n\n".join(blocks) + "\n"
