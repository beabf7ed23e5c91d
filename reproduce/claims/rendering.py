"""Findings as Markdown, and as plain data for JSON."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from reproduce.claims.ledger import Value
from reproduce.claims.verdicts import Estimate, Finding, PartFinding, Verdict, percent

COLUMNS = ("id", "claim", "expected", "measured", "verdict", "evidence")
PART_COLUMNS = ("part", "expected", "measured", "verdict", "reason")


def row(finding: Finding) -> tuple[str, ...]:
    """A finding by `COLUMNS`."""
    claim = finding.claim
    return claim.id, claim.statement, claim.claimed, finding.measured, finding.verdict, finding.evidence


def part_row(part: PartFinding) -> tuple[str, ...]:
    """A part by `PART_COLUMNS`; its deviation stands behind what was measured."""
    return part.name, part.expected, part.measured + percent(part.deviation), part.verdict, part.note


def counts(findings: Iterable[Finding]) -> str:
    """How many claims got which verdict."""
    number = Counter(finding.verdict for finding in findings)
    return ", ".join(f"{verdict}: {number[verdict]}" for verdict in Verdict if number[verdict])


def as_json(findings: Sequence[Finding], environment: Mapping[str, Any]) -> dict[str, Any]:
    """Everything: each claim as the ledger has it, with verdict, evidence and parts, and what it was measured on."""
    return {"environment": dict(environment), "claims": rows_as_json(findings)}


def rows_as_json(findings: Sequence[Finding]) -> list[dict[str, Any]]:
    """The claims of `as_json`."""
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
                    "value": _plain(part.value),
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


def markdown(findings: Sequence[Finding], documents: Mapping[str, str], origin: str) -> str:
    """The ledger as a document: the table, then the parts, rule and protocol of each claim. `origin` says what it was
    measured on."""
    sources = "; ".join(f"{short}: {long}" for short, long in documents.items())
    lines = [
        "# Claims ledger",
        "",
        f"{counts(findings)}. {origin}",
        "",
        *_table(COLUMNS, map(row, findings)),
        "",
        sources + ".",
    ]
    for finding in findings:
        claim = finding.claim
        lines += [
            "",
            f"## {claim.id}",
            "",
            f"{claim.statement}. Source: {claim.source.document}, {claim.source.section}. Holds if: {claim.rule}. "
            f"Protocol: {claim.protocol}.",
        ]
        if len(finding.parts) > 1:
            lines += ["", *_table(PART_COLUMNS, map(part_row, finding.parts))]
    return "\n".join(lines) + "\n"


def _plain(value: Value | Estimate) -> Any:
    if not isinstance(value, Estimate):
        return value
    return {name: None if math.isnan(number) else number for name, number in asdict(value).items()}


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    body = ["| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |" for cells in rows]
    return ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns), *body]
