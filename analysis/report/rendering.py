"""Writes the files of a report: index.html, results.md, CSV files and LaTeX tables.

The page is self-contained: styles, script and figures are inlined, and nothing is fetched.
"""

from __future__ import annotations

import time
from pathlib import Path

import jinja2

from analysis.report import figures
from analysis.report.sections import Sections
from analysis.tables import DASH


def write_files(sections: Sections, out: Path) -> Path:
    """Write all files of a report into a folder and return the path of its page, index.html.

    Args:
        sections: The content of the report.
        out: The folder. It is created if necessary, and files of an earlier report in it are overwritten.
    """
    tables = {"results": sections.results_table}
    if sections.effects_table.rows:
        tables["effects"] = sections.effects_table
    else:
        (out / "tables" / "effects.tex").unlink(missing_ok=True)  # of an earlier report
    frames = {
        "runs": sections.recorded.runs,
        "epochs": sections.recorded.epochs,
        "arms": sections.summary,
        "effects": sections.effects,
    }
    (out / "tables").mkdir(parents=True, exist_ok=True)
    for name, frame in frames.items():
        frame.to_csv(out / f"{name}.csv", index=False, encoding="utf-8")
    for name, table in tables.items():
        (out / "tables" / f"{name}.tex").write_text(table.latex(name), encoding="utf-8")
    (out / "results.md").write_text(render_markdown(sections), encoding="utf-8")
    index = out / "index.html"
    index.write_text(render_page(sections), encoding="utf-8")
    return index


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
    facts += [
        f"{name.lower()}: {value}" for name, value in sections.environment if value != DASH and name != "Tracking"
    ]
    tables = [sections.results_table]
    if sections.effects_table.rows:
        tables.append(sections.effects_table)
    blocks = [f"### {recorded.experiment}"]
    blocks += [f"**{table.caption}.**\n\n{table.markdown()}" for table in tables]
    blocks += ["; ".join(facts) + ".", f"Made by `deeper report {recorded.experiment}`."]
    return "\n\n".join(blocks) + "\n"
