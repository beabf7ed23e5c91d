"""Decides the static rows of the ledger again, and compares their values with those of a committed `ledger.json`."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reproduce.errors import UserError

LEDGER = "ledger.json"
TOLERANCE = 1e-9
"""Relative tolerance of numbers, which may be summed in another order on another machine."""
EQUAL = "equal"
ROUNDING = "equal up to rounding"
SAME_VERDICT = "same verdict"
"""A number that is no count, such as a ratio of times, and that differs within what its claim allows."""
NOT_REPRODUCED = "not reproduced"


@dataclass(frozen=True)
class StaticRow:
    """A part of a static claim as it was committed and as it is measured now."""

    claim: str
    part: str
    measured: Any
    """The value as measured now; None if the ledger no longer has the part."""
    recorded: Any
    verdict: str


def verify_static(results: Path, progress: Callable[[str], None] = lambda _: None) -> list[StaticRow]:
    """Measure the static rows of the shipped ledger again.

    Args:
        results: A file that `deeper claims --output` wrote, or a folder with one called `ledger.json`.
        progress: Called with the id of each claim before it is measured.

    Raises:
        UserError: The file is missing, or it is no such file.
    """
    path = results / LEDGER if results.is_dir() else results
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))["claims"]
        committed = {row["id"]: row["parts"] for row in rows if row["kind"] == "static"}
    except FileNotFoundError:
        raise UserError(f"results: {path}: no such file; `deeper claims --output` writes one") from None
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"results: {path}: not a file that `deeper claims --output` wrote: {error}") from None

    from reproduce.claims.ledger import load_ledger
    from reproduce.claims.registry import STATIC
    from reproduce.claims.verdicts import find

    present = {claim.id: claim for claim in load_ledger(None).claims if claim.kind == "static"}
    compared = []
    for claim_id, parts in committed.items():
        progress(claim_id)
        claim = present.get(claim_id)
        measured: Mapping[str, Any] = {}
        if claim is not None and claim.measurement is not None:
            found = find(claim, STATIC[claim.measurement]())
            measured = {part.name: (json.loads(json.dumps(part.value)), str(part.verdict)) for part in found.parts}
        for part in parts:
            value, verdict = measured.get(part["name"], (None, None))
            compared.append(StaticRow(claim_id, part["name"], value, part["value"], _verdict(value, verdict, part)))
    return compared


def _verdict(value: Any, verdict: str | None, recorded: Mapping[str, Any]) -> str:
    if verdict == recorded["verdict"] and value == recorded["value"]:
        return EQUAL
    if verdict != recorded["verdict"] or not (isinstance(value, float) and isinstance(recorded["value"], (int, float))):
        return NOT_REPRODUCED
    return ROUNDING if math.isclose(value, recorded["value"], rel_tol=TOLERANCE) else SAME_VERDICT
