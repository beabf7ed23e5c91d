"""Findings as plain data for JSON, as tables and as a Markdown document."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from analysis.tables import Cell, Table
from reproduce.claims.verdicts import Finding, PartFinding, Verdict, deviation_text

COLUMNS = {
    "Id": "id",
    "Claim": "statement",
    "Claimed": "claimed",
    "Measured": "measured",
    "Verdict": "verdict",
    "Evidence": "evidence",
}
"""Headings of the ledger's table, and the fields of `as_rows` below them."""
PART_COLUMNS = ("Part", "Expected", "Measured", "Verdict", "Reason")


def as_json(findings: Sequence[Finding], environment: Mapping[str, Any]) -> dict[str, Any]:
    """The content of the JSON file of `deeper claims`: the findings and what they were measured on."""
    return {"environment": dict(environment), "claims": as_rows(findings)}


def as_rows(findings: Iterable[Finding]) -> list[dict[str, Any]]:
    """Findings as plain data: each claim as the ledger has it, with its verdict, evidence and parts."""
    return [
        {
            **finding.claim.model_dump(mode="json", exclude={"parts"}),
            "verdict": finding.verdict,
            "measured": finding.measured,
            "evidence": finding.evidence,
            "parts": [
                {
                    "name": part.name,
                    "expected": part.expected,
                    "measured": part.measured,
                    "value": part.value,
                    "deviation": part.deviation,
                    "verdict": part.verdict,
                    "more": part.more,
                    "reason": part.note,
                }
                for part in finding.parts
            ],
        }
        for finding in findings
    ]


def count_verdicts(rows: Iterable[Mapping[str, Any]]) -> str:
    """How many claims have which verdict, for example "holds: 12, does not hold: 6"."""
    number = Counter(row["verdict"] for row in rows)
    return ", ".join(f"{verdict}: {number[verdict]}" for verdict in Verdict if number[verdict])


def ledger_table(rows: Iterable[Mapping[str, Any]], caption: str = "Claims") -> Table:
    """The table with one row for each claim, from the rows of `as_rows` or of a JSON file."""
    cells = [[Cell(str(row[field]), sort=str(row[field])) for field in COLUMNS.values()] for row in rows]
    return Table(caption, list(COLUMNS), cells, text_columns=frozenset(range(len(COLUMNS))))


def parts_table(parts: Iterable[PartFinding], caption: str = "") -> Table:
    """The table with one row for each part of a claim. A deviation follows what was measured."""
    cells = [
        [Cell(text) for text in (p.name, p.expected, p.measured + deviation_text(p.deviation), p.verdict, p.note)]
        for p in parts
    ]
    return Table(caption, PART_COLUMNS, cells, text_columns=frozenset(range(len(PART_COLUMNS))))


def markdown(findings: Sequence[Finding], documents: Mapping[str, str], origin: str) -> str:
    """The findings as a document: the ledger's table, then rule, protocol and parts of each claim.

    Args:
        findings: What became of the claims.
        documents: Of the ledger, what the short name of each source stands for.
        origin: Says in a sentence when and on what the findings were measured.
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
        if len(finding.parts) > 1:
            blocks.append(parts_table(finding.parts).markdown())
    return "\n\n".join(blocks) + "\n"


def readme_table(path: Path) -> str:
    """Markdown of the JSON file that `deeper claims` wrote: the number of claims by verdict, and the ledger's table."""
    rows = json.loads(path.read_text(encoding="utf-8"))["claims"]
    return f"{count_verdicts(rows)}.\n\n{ledger_table(rows).markdown()}"
