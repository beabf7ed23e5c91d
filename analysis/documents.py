"""Generates the tables in the project's documents from committed results.

    python -m analysis.documents            # regenerate all regions
    python -m analysis.documents --check    # change nothing; exit with 1 if a region is out of date

A region lies between `<!-- generated: KIND EXPERIMENT -->` and `<!-- end -->`, each on a line of its own. EXPERIMENT is
given only for `arms` and `effects`. The kinds are:

- `headlines`, `goals`, `bench`: benchmarks in results/bench, by kind of machine. `headlines` has the goals, `goals` has
  also the commands that measured them, and `bench` has all figures.
- `arms`, `effects`: the tables of an experiment's report.
- `claims`, `claims-count`: the ledger's table with the number of claims by verdict, or these numbers alone.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from analysis.claims.rendering import readme_table
from analysis.tables import Cell, Table
from reproduce.errors import UserError

ROOT = Path(__file__).parents[1]
DOCUMENTS = ("README.md", "results/README.md", "results/claims/README.md")
NOTHING = "No results are committed yet."
REGION = re.compile(r"^<!-- generated: (?P<name>[^>]*?) -->\n.*?^<!-- end -->$", re.MULTILINE | re.DOTALL)


class RegionError(UserError):
    """Raised if a region of a document has an unknown kind, or if the report that it shows does not exist."""


def filled(text: str, results: Path) -> str:
    """Return the text of a document with all its regions regenerated. No file is written.

    Args:
        text: The document in Markdown.
        results: The folder `results`, from which the regions are generated.

    Raises:
        RegionError: A region has an unknown kind, or the report that it shows does not exist.
    """
    return REGION.sub(lambda match: _region(match["name"], results), text)


def _region(name: str, results: Path) -> str:
    kind, _, source = name.partition(" ")
    if kind not in KINDS:
        raise RegionError(f"generated: {name!r}: unknown; known kinds: {', '.join(KINDS)}")
    try:
        content = KINDS[kind](results, source)
    except FileNotFoundError as error:
        raise RegionError(f"generated: {name!r}: no results in {error.filename}") from None
    return f"<!-- generated: {name} -->\n\n{content}\n\n<!-- end -->"


# --- benchmarks ---------------------------------------------------------------------------------------


def _goals(results: Path, _: str, *, sources: bool = True, briefly: bool = False, without: Sequence[str] = ()) -> str:
    """Tabulate the goals of all suites: median, range, goal, and for missed goals the reason.

    Args:
        results: The folder `results`.
        sources: Whether the command and the machine of each suite follow below the table.
        briefly: Whether a goal that is the same against several peers is told against the strongest of them alone.
        without: Suites that are left out.
    """
    parts = []
    for kind, found in _benchmarks(results).items():
        rows = [
            _goal_row(comparison, goal)
            for result in found
            if result["suite"] not in without
            for comparison in result["comparisons"]
            for goal in (_against_the_strongest(comparison) if briefly else comparison["goals"])
        ]
        if rows:
            table = Table(
                "", ["What", "Median (range)", "Goal"], rows, text_columns=frozenset({0, 2}), holds_markdown=True
            )
            parts += [f"**On {kind}**:", table.markdown(), *(map(_source, found) if sources else ())]
    return "\n\n".join(parts) or NOTHING


def _against_the_strongest(comparison: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the goals of a comparison; of those for the same ratio to several peers, the one with the lowest ratio."""
    found: dict[Any, tuple[float, Mapping[str, Any]]] = {}
    for number, goal in enumerate(comparison["goals"]):
        same = (goal["figure"], goal["ours"], goal["at_least"]) if goal["peer"] and goal["at_least"] else number
        ratio = median(_outcome(comparison, goal["figure"], goal["ours"], goal["peer"]))
        if same not in found or ratio < found[same][0]:
            found[same] = ratio, goal
    return [goal for _, goal in found.values()]


def _tables(results: Path, _: str) -> str:
    """Tabulate all measurements of all suites, with one table for each comparison."""
    parts = []
    for kind, found in _benchmarks(results).items():
        for result in found:
            heading = f"### {result['suite']} on {kind}"
            parts += [heading, _source(result), *map(_comparison_table, result["comparisons"])]
    for folder in sorted((results / "bench").glob("*/gpu")):
        parts += _gpu_tables(folder, results)
    return "\n\n".join(parts) or NOTHING


def _gpu_tables(folder: Path, results: Path) -> list[str]:
    """Tabulate the results of `deeper bench gpu` on one kind of machine, with the checks that were missed."""
    found = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))]
    found = [content for content in found if content["result"]["outcome"] != "absent"]
    sources = dict.fromkeys(_source({**content, "file": folder.relative_to(results)}) for content in found)
    parts = [f"### gpu on {folder.parent.name}", *sources] if found else []
    for result in (content["result"] for content in found):
        for table in result["tables"]:
            columns = list(dict.fromkeys(figure for row in table["rows"].values() for figure in row))
            rows = [
                [Cell(name), *(_figure(row.get(column)) for column in columns)] for name, row in table["rows"].items()
            ]
            parts += [f"**{result['part']}: {table['title']}**", Table("", ["", *columns], rows).markdown()]
        if missed := [check for check in result["checks"] if not _within(check["value"], check)]:
            parts.append(f"Checks **missed**: {'; '.join(check['what'] for check in missed)}.")
        parts += [f"{result['part']}: {note}" for note in result["notes"]]
    return parts


def _figure(value: float | str | None) -> Cell:
    return Cell(f"{value:.4g}" if isinstance(value, int | float) else value or "")


def _within(value: float | None, bounds: Mapping[str, Any]) -> bool:
    least, most = bounds["at_least"], bounds["at_most"]
    return value is not None and (least is None or value >= least) and (most is None or value <= most)


def _goal_row(comparison: Mapping[str, Any], goal: Mapping[str, Any]) -> list[Cell]:
    values = _outcome(comparison, goal["figure"], goal["ours"], goal["peer"])
    middle = median(values)
    bounds = (("at least", goal["at_least"]), ("at most", goal["at_most"]))
    bound = " and ".join(f"{name} {value:g}" for name, value in bounds if value is not None)
    against = f", {goal['ours']} / {goal['peer']}" if goal["peer"] else f", {goal['ours']}"
    missed = "" if _within(middle, goal) else f", **missed**{': ' if goal['note'] else ''}{goal['note']}"
    return [
        Cell(f"{comparison['title']}: {goal['figure']}{against}"),
        Cell(f"{middle:.3g} ({min(values):.3g} to {max(values):.3g}, n = {len(values)})"),
        Cell(bound + missed),
    ]


def _comparison_table(comparison: Mapping[str, Any]) -> str:
    rounds, once = comparison["rounds"], comparison["once"]
    ours = next(iter(rounds))
    figures = list(rounds[ours][0])
    alone = list(dict.fromkeys(figure for values in once.values() for figure in values))
    columns = ["", *(column for figure in figures for column in (figure, f"{ours} is × this")), *alone]
    rows = []
    for name, values in rounds.items():
        row = [Cell(name)]
        for figure in figures:
            ratios = _outcome(comparison, figure, ours, name)
            shown = "" if name == ours else f"{median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
            row += [Cell(f"{median(value[figure] for value in values):.4g}"), Cell(shown)]
        row += [Cell(f"{once[name][figure]:.4g}" if figure in once.get(name, {}) else "") for figure in alone]
        rows.append(row)
    title = f"**{comparison['title']}**; medians (range) of {len(rounds[ours])} interleaved repetitions"
    absent = [f"{name} did not take part: {reason}" for name, reason in comparison["absent"].items()]
    return "\n\n".join([f"{title}:", Table("", columns, rows).markdown(), *absent])


def _outcome(comparison: Mapping[str, Any], figure: str, ours: str, peer: str | None) -> list[float]:
    mine = [values[figure] for values in comparison["rounds"][ours]]
    if peer is None:
        return mine
    return [a / b[figure] for a, b in zip(mine, comparison["rounds"][peer], strict=True)]


def _benchmarks(results: Path) -> dict[str, list[dict[str, Any]]]:
    """Read the committed results of the suites, by kind of machine.

    Those of the quick check are left out, because it repeats parts of other suites.
    """
    found: dict[str, list[dict[str, Any]]] = {}
    for path in sorted((results / "bench").glob("*/*.json")):
        result = {"file": path.relative_to(results), **json.loads(path.read_text(encoding="utf-8"))}
        if path.stem != "quick" and "comparisons" in result:
            found.setdefault(path.parent.name, []).append(result)
    return found


def _source(result: Mapping[str, Any]) -> str:
    environment = result["environment"]
    machine, packages = environment["machine"], environment["packages"]
    cpu = ", ".join([machine["cpu"], *machine.get("cpu_flags", [])])
    if held := environment.get("held_to"):
        cpu += ", held by " + " ".join(f"{name}={value}" for name, value in held.items())
    device = environment["gpus"][0]["name"] if environment["gpus"] else f"{machine['cores_physical']} cores, no GPU"
    commit = str(environment.get("commit", "none"))[:7] + (" with changes" if environment.get("dirty") else "")
    return (
        f"{result['suite']}: `{result['command']}` on {cpu}, {device}, torch {packages['torch']}, "
        f"{result['date']}, commit {commit}; raw: `results/{result['file']}`."
    )


# --- experiments and claims ---------------------------------------------------------------------------


def _table_of_report(results: Path, experiment: str, caption: str) -> str:
    """Extract a table with its caption, of which the beginning is given, from results.md of a report."""
    blocks = (results / experiment / "report" / "results.md").read_text(encoding="utf-8").split("\n\n")
    start = next(place for place, block in enumerate(blocks) if block.startswith(f"**{caption}"))
    return "\n\n".join(blocks[start : start + 2])


def _claims(results: Path, _: str) -> str:
    path = results / "claims" / "ledger.json"
    return readme_table(path) if path.exists() else NOTHING


KINDS: dict[str, Callable[[Path, str], str]] = {
    # The goals of the suite report are seconds, where the others are ratios; those of scaling are of a prediction.
    "headlines": partial(_goals, sources=False, briefly=True, without=("report", "scaling")),
    "goals": _goals,
    "bench": _tables,
    "arms": lambda results, experiment: _table_of_report(results, experiment, "Results by arm"),
    "effects": lambda results, experiment: _table_of_report(results, experiment, "Effects on top-1"),
    "claims": _claims,
    "claims-count": lambda results, source: _claims(results, source).partition("\n\n")[0],
}
"""Functions that generate the content of a region, by kind. They take the folder `results` and an experiment's name."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Regenerate the regions of all documents in place, and print the names of the documents that changed.

    With `--check`, the documents are only compared with the results, and the names of those that differ are printed.

    Args:
        arguments: Command-line arguments. None uses those of the process.

    Returns:
        The exit code: 1 if `--check` found a document that differs from the results, else 0.

    Raises:
        SystemExit: A region cannot be generated (code 2), or the arguments are invalid.
    """
    parser = argparse.ArgumentParser(prog="python -m analysis.documents", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 where a document would change")
    check = parser.parse_args(arguments).check
    stale = []
    for name in DOCUMENTS:
        text = (ROOT / name).read_text(encoding="utf-8")
        try:
            new = filled(text, ROOT / "results")
        except RegionError as error:
            parser.error(f"{name}: {error}")
        if new != text:
            stale.append(name)
            if not check:
                (ROOT / name).write_text(new, encoding="utf-8")
    for name in stale:
        print(f"{name}: {'does not agree with results/; run: python -m analysis.documents' if check else 'written'}")
    return int(check and bool(stale))


if __name__ == "__main__":
    sys.exit(main())
