"""Renders findings as plain data for JSON, as tables and as a Markdown document."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from analysis.claims.rules import levels
from analysis.tables import Cell, Table
from reproduce.claims.design import Design
from reproduce.claims.verdicts import MEASURED, Finding, PartFinding, Verdict, deviation_text

COLUMNS = {
    "Id": "id",
    "Claim": "statement",
    "Claimed": "claimed",
    "Measured": "measured",
    "Verdict": "told",
    "Evidence": "evidence",
}
"""Headings of the ledger's table, each with the field of `as_rows` that its column shows."""
PART_COLUMNS = ("Part", "Expected", "Measured", "Verdict", "Reason")


def as_json(findings: Sequence[Finding], environment: Mapping[str, Any]) -> dict[str, Any]:
    """Build the content of the JSON file of `deeper claims`.

    Args:
        findings: The findings.
        environment: Description of the machine and the software on which they were measured.

    Returns:
        A mapping with the keys `environment` and `claims`. The latter holds the rows of `as_rows`.
    """
    return {"environment": dict(environment), "claims": as_rows(findings)}


def as_rows(findings: Iterable[Finding]) -> list[dict[str, Any]]:
    """Convert findings to plain data that can be written as JSON.

    Returns:
        One mapping for each finding: the fields of its claim, `verdict`, `scope`, `told` (the verdict with its scope),
        `measured`, `evidence` and `parts`. The evidence ends with the date of the design. Each part has `name`,
        `expected`, `measured`, `value`, `deviation`, `verdict`, `more`, `half` and `reason`, as in `PartFinding`, whose
        `note` is called `reason`.
    """
    return [
        {
            **finding.claim.model_dump(mode="json", exclude={"parts"}),
            "verdict": finding.verdict,
            "scope": finding.scope,
            "told": finding.told,
            "measured": finding.measured,
            "evidence": "; ".join(filter(None, (finding.evidence, finding.design))),
            "parts": [
                {
                    "name": part.name,
                    "expected": part.expected,
                    "measured": part.measured,
                    "value": part.value,
                    "deviation": part.deviation,
                    "verdict": part.verdict,
                    "more": part.more,
                    "half": part.half,
                    "reason": part.note,
                }
                for part in finding.parts
            ],
        }
        for finding in findings
    ]


def count_verdicts(rows: Iterable[Mapping[str, Any]]) -> str:
    """Count the claims by verdict in a sentence, exact verdicts and those of a scope apart.

    Verdicts that no claim has are left out. An example: "Exact, by the network alone: 12 hold, 4 do not hold; in the
    scope of what was measured, at 32 px, 6 epochs: 1 holds, 2 do not hold; not measured here: 4".

    Args:
        rows: Rows of `as_rows` or of a JSON file.
    """
    rows = list(rows)
    static = Counter(row["verdict"] for row in rows if row["kind"] == "static")
    others = [row for row in rows if row["kind"] != "static"]
    scopes = dict.fromkeys(row["scope"] for row in others if row["verdict"] in MEASURED)
    counts = [f"exact, by the network alone: {_counted(static)}"] if static else []
    for index, scope in enumerate(scopes):
        found = Counter(row["verdict"] for row in others if row["scope"] == scope and row["verdict"] in MEASURED)
        lead = "" if index else "in the scope of what was measured"
        counts.append(f"{', '.join(filter(None, (lead, scope)))}: {_counted(found)}")
    for verdict in Verdict:
        if verdict not in MEASURED and (number := sum(row["verdict"] == verdict for row in others)):
            counts.append(f"{verdict}: {number}")
    text = "; ".join(counts)
    return text[:1].upper() + text[1:]


def _counted(found: Counter[str]) -> str:
    phrases = {
        Verdict.HOLDS: ("holds", "hold"),
        Verdict.FAILS: ("does not hold", "do not hold"),
        Verdict.NOT_ENOUGH: ("has not enough runs", "have not enough runs"),
        Verdict.UNDECIDED: ("is undecided", "are undecided"),
    }
    return ", ".join(
        f"{found[verdict]} {one if found[verdict] == 1 else many}"
        for verdict, (one, many) in phrases.items()
        if found[verdict]
    )


def design_text(design: Design) -> str:
    """Format a design in a few sentences: arms, looks, setting, test, level, correction and dates."""
    seeds = " and ".join(str(look) for look in design.looks)
    at = " and ".join(f"{level:.3g}" for level in levels(design))
    spending = f", spent by {design.spending}" if isinstance(design.spending, str) else ""
    direction = "one-sided" if design.sided == "one" else "two-sided"
    margin = "" if design.margin is None else f", margin {design.margin:g} points"
    awaits = f" (and of {', '.join(design.awaits)}, before a look)" if design.awaits else ""
    holm = ", by Holm's method over the parts" if design.correction == "holm" else ""
    lines = [
        f"Arms {', '.join(design.arms)}; {seeds} seeds of each{awaits}; {design.resolution} px, "
        f"{' or '.join(str(epochs) for epochs in design.epochs)} epochs; {'paired' if design.paired else 'not paired'} "
        "by seed",
        f"{direction}{margin}, alpha {design.alpha:g} in all: a test in one direction has the level {at}{spending}",
        f'"holds" asks for every part at this level, "does not hold" for the opposite of one part{holm}',
        design.note,
        "; ".join([design.dated, *(change.what for change in design.changes)]),
    ]
    return ". ".join(line[:1].upper() + line[1:] for line in lines if line) + "."


def ledger_table(rows: Iterable[Mapping[str, Any]], caption: str = "Claims") -> Table:
    """Build the ledger's table, with one row for each claim and the columns `COLUMNS`.

    Args:
        rows: Rows of `as_rows` or of a JSON file.
        caption: Caption of the table.
    """
    cells = [[Cell(str(row[field]), sort=str(row[field])) for field in COLUMNS.values()] for row in rows]
    return Table(caption, list(COLUMNS), cells, text_columns=frozenset(range(len(COLUMNS))), holds_markdown=True)


def parts_table(parts: Iterable[PartFinding], caption: str = "") -> Table:
    """Build a table with one row for each part of a claim and the columns `PART_COLUMNS`.

    If the measured value deviates from an expected number, the relative deviation follows it in the same cell, in
    percent and parentheses.
    """
    cells = [
        [Cell(text) for text in (p.name, p.expected, p.measured + deviation_text(p.deviation), p.verdict, p.note)]
        for p in parts
    ]
    return Table(caption, PART_COLUMNS, cells, text_columns=frozenset(range(len(PART_COLUMNS))), holds_markdown=True)


def markdown(findings: Sequence[Finding], documents: Mapping[str, str], origin: str) -> str:
    """Render findings as a Markdown document: the ledger's table, then a section for each claim.

    A section has the statement, source, rule and protocol of the claim and, if it has several parts, a table of them.

    Args:
        findings: The findings.
        documents: Descriptions of the cited documents by short name, as in `Ledger.documents`.
        origin: A sentence that says when and on which machine the findings were measured.
    """
    rows = as_rows(findings)
    blocks = [
        "# Claims ledger",
        f"{count_verdicts(rows)}. {origin}",
        ledger_table(rows).markdown(),
        "; ".join(f"{short}: {long}" for short, long in documents.items()) + ".",
    ]
    for finding in findings:
        claim = finding.claim
        blocks += [
            f"## {claim.id}",
            f"{claim.statement}. Source: {claim.source.document}, {claim.source.section}. Holds if: {claim.rule}. "
            f"Protocol: {claim.protocol}.",
        ]
        if claim.design is not None:
            after = finding.design.removeprefix(claim.design.dated).removeprefix(": ")
            blocks.append(f"Design: {design_text(claim.design)}" + (f" Marked: {after}." if after else ""))
        if len(finding.parts) > 1:
            blocks.append(parts_table(finding.parts).markdown())
    return "\n\n".join(blocks) + "\n"


def readme_table(path: Path) -> str:
    """Render the JSON file of `deeper claims` as Markdown.

    Args:
        path: The JSON file.

    Returns:
        The number of claims by verdict, an empty line, and the ledger's table.
    """
    # Files of older versions have no scope.
    rows = [
        {"scope": "", "told": row["verdict"], **row} for row in json.loads(path.read_text(encoding="utf-8"))["claims"]
    ]
    return f"{count_verdicts(rows)}.\n\n{ledger_table(rows).markdown()}"
