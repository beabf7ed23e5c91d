"""The claims ledger as a table: of a report, and of the README. Reads what `deeper claims --json` writes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from analysis.tables import Cell, Table

COLUMNS = {
    "Id": "id",
    "Claim": "statement",
    "Claimed": "claimed",
    "Measured": "measured",
    "Verdict": "verdict",
    "Evidence": "evidence",
}


def ledger_table(claims: Sequence[Mapping[str, Any]], caption: str = "Claims") -> Table:
    """A row a claim; `claims` as in the JSON of `deeper claims`."""
    rows = [[Cell(str(claim[name]), sort=str(claim[name])) for name in COLUMNS.values()] for claim in claims]
    return Table(caption, list(COLUMNS), rows, text_columns=frozenset(range(len(COLUMNS))))


def readme_table(path: Path) -> str:
    """Markdown of a ledger that `deeper claims --json` wrote: how many claims got which verdict, and the table."""
    claims = json.loads(path.read_text(encoding="utf-8"))["claims"]
    verdicts = [claim["verdict"] for claim in claims]
    counts = ", ".join(f"{verdict}: {verdicts.count(verdict)}" for verdict in dict.fromkeys(verdicts))
    return f"{counts}.\n\n{ledger_table(claims).markdown()}"
