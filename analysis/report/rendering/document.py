"""Renders a report as a Markdown document, for use in other documents."""

from __future__ import annotations

from collections.abc import Iterable

from analysis.comparisons.methods import MEASURED
from analysis.report.figures.style import Plot
from analysis.report.sections import Sections
from analysis.tables import DASH, Table, counted
from reproduce.text.markdown import as_markdown


def render_markdown(sections: Sections, plots: Iterable[Plot] = ()) -> str:
    """Render the report as Markdown: sentences, tables, figures, methods, and a line on the runs' environment.

    Args:
        sections: The content of the report.
        plots: The figures that the document shows. Their files are `figures/NAME.png` beside the document.
    """
    recorded = sections.recorded
    facts = [f"n = {len(recorded.finished)} finished of {len(recorded.runs)} runs"]
    if recorded.choice.plan is not None and recorded.notices:
        facts.append(f"plan {recorded.choice.plan}, {counted(recorded.others, 'other run')} left out")
    facts += [
        f"{name if name == 'GPUs' else name.lower()}: {as_markdown(value)}"
        for name, value in sections.environment
        if value != DASH and name != "Tracking"
    ]
    blocks = [f"### {recorded.experiment}"]
    for title, sentences in (
        ("What these runs show", sections.findings.found),
        ("What cannot be concluded", sections.findings.open),
        ("Runs that were repeated", sections.verification),
    ):
        if sentences:
            blocks.append(f"#### {title}\n\n" + "\n".join(f"- {as_markdown(sentence)}" for sentence in sentences))
    blocks += [
        f"**{table.caption}.**\n\n{table.markdown()}" for table in document_tables(sections).values() if table.rows
    ]
    blocks += [f"**{plot.title}.**\n\n![{plot.title}](figures/{plot.name}.png)\n\n{plot.caption}" for plot in plots]
    blocks.append(f"**{sections.completeness.caption}.**\n\n{sections.completeness.table().markdown()}")
    if sections.unfinished:
        errors = (
            f"{run.name}: {run.outcome}{f': {run.error}' if run.error != DASH else ''}" for run in sections.unfinished
        )
        blocks.append("\n".join(f"- {as_markdown(error)}" for error in errors))
    methods = [sections.method, *MEASURED, f"References. {sections.references}"]
    blocks += ["#### Methods and limits", *map(as_markdown, methods)]
    if sections.limits:
        blocks.append("\n".join(f"- {as_markdown(line)}" for line in sections.limits))
    blocks.append("; ".join(facts) + ".")
    steps = [(f"`{step.command}`: " if step.command else "") + as_markdown(step.what) for step in sections.repeat]
    blocks.append("#### How to repeat it")
    blocks.append("\n".join(f"{number}. {step}" for number, step in enumerate(steps, start=1)))
    blocks.append(f"Made by `deeper report {recorded.experiment}`.")
    return "\n\n".join(blocks) + "\n"


def document_tables(sections: Sections) -> dict[str, Table]:
    """Return the tables of the document by the names of their LaTeX files. Some may have no rows."""
    return {
        "results": sections.results_table,
        "arms": sections.arms_table,
        "effects": sections.effects_table,
        "sizes": sections.sizes_table,
        "targets": sections.targets_table,
        "budgets": sections.budgets_table,
        "predictions": sections.predictions_table,
        "classes": sections.classes_table,
        "claims": sections.claims_table,
        "verification": sections.verification_table,
    }
