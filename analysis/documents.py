"""Figures in the project's documents, generated from committed results.

    python -m analysis.documents            # fill the regions in
    python -m analysis.documents --check    # exit 1 where a document and the results disagree

A region lies between `<!-- generated: KIND EXPERIMENT -->` and `<!-- end -->`, each on a line of its own. Kinds:
`headlines` (the goals alone), `goals` (with commands) and `bench` (all figures) of the suites in results/bench, by
kind of machine; `arms` and `effects` of an experiment's report; `claims` and `claims-count` of the ledger.
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
    """A region of an unknown kind, or whose results are not there."""


def filled(text: str, results: Path) -> str:
    """A document with its regions generated anew. Raises `RegionError`."""
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


def _goals(results: Path, _: str, *, sources: bool = True) -> str:
    """The goals of all suites: medians with ranges, whether each is reached, and if not why."""
    parts = []
    for kind, found in _benchmarks(results).items():
        rows = [
            _goal_row(comparison, goal)
            for result in found
            for comparison in result["comparisons"]
            for goal in comparison["goals"]
        ]
        if rows:
            table = Table("", ["What", "Median (range)", "Goal"], rows, text_columns=frozenset({0, 2}))
            parts += [f"**On {kind}**:", table.markdown(), *(map(_source, found) if sources else ())]
    return "\n\n".join(parts) or NOTHING


def _tables(results: Path, _: str) -> str:
    """All that suites measured, a table a comparison."""
    parts = []
    for kind, found in _benchmarks(results).items():
        for result in found:
            heading = f"### {result['suite']} on {kind}"
            parts += [heading, _source(result), *map(_comparison_table, result["comparisons"])]
    for folder in sorted((results / "bench").glob("*/gpu")):
        parts += _gpu_tables(folder, results)
    return "\n\n".join(parts) or NOTHING


def _gpu_tables(folder: Path, results: Path) -> list[str]:
    """What the parts of `deeper bench gpu` found on a kind of machine, with their checks."""
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
    """The committed results of suites, by kind of machine; but for the quick check's, which repeats parts of others."""
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
    device = environment["gpus"][0]["name"] if environment["gpus"] else f"{machine['cores_physical']} cores, no GPU"
    commit = str(environment.get("commit", "none"))[:7] + (" with changes" if environment.get("dirty") else "")
    return (
        f"{result['suite']}: `{result['command']}` on {cpu}, {device}, torch {packages['torch']}, "
        f"{result['date']}, commit {commit}; raw: `results/{result['file']}`."
    )


# --- experiments and claims ---------------------------------------------------------------------------


def _table_of_report(results: Path, experiment: str, number: int) -> str:
    """The `number`-th table of a report, from 0, with its caption."""
    blocks = (results / experiment / "report" / "results.md").read_text(encoding="utf-8").split("\n\n")
    starts = [place for place, block in enumerate(blocks) if block.startswith("**")]
    return "\n\n".join(blocks[starts[number] : starts[number] + 2])


def _claims(results: Path, _: str) -> str:
    path = results / "claims" / "ledger.json"
    return readme_table(path) if path.exists() else NOTHING


KINDS: dict[str, Callable[[Path, str], str]] = {
    "headlines": partial(_goals, sources=False),
    "goals": _goals,
    "bench": _tables,
    "arms": lambda results, experiment: _table_of_report(results, experiment, 0),
    "effects": lambda results, experiment: _table_of_report(results, experiment, 1),
    "claims": _claims,
    "claims-count": lambda results, source: _claims(results, source).partition("\n\n")[0],
}


def main(arguments: Sequence[str] | None = None) -> int:
    """0 where every document agrees with the results, or now does; 1 where `--check` found one that does not."""
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
