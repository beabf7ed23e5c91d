"""`deeper claims`: the ledger, decided from the network and from what MLflow holds."""

from __future__ import annotations

import argparse
import datetime
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.commands.verbs import add_verb

if TYPE_CHECKING:
    from rich.console import Console

    from reproduce.claims.ledger import Claim
    from reproduce.claims.verdicts import Finding

EXAMPLES = """examples:
  deeper claims --static                     # what the network alone decides: seconds, offline
  deeper claims --id P-table1                # one claim with all its parts
  deeper claims claim-heads                  # empirical claims from the runs of this experiment
  deeper claims --json claims.json --markdown claims.md

A claim that does not hold is a finding: the exit code is 0 all the same.
"""


def add_to(verbs: Any, places: argparse.ArgumentParser) -> None:
    help = "the ledger: each claim, expected, measured, verdict, evidence"
    parser = add_verb(verbs, places, "claims", _claims, help, examples=EXAMPLES)
    parser.add_argument(
        "experiment", nargs="?", help="take the runs of this experiment for all empirical claims (each claim's own)"
    )
    parser.add_argument("--static", action="store_true", help="only what needs no runs")
    parser.add_argument("--id", action="append", default=[], help="only this claim, with its parts (may be repeated)")
    parser.add_argument("--ledger", type=Path, metavar="FILE", help="another ledger than the shipped one")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the findings here, for programs")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the findings here, with all parts")


def _claims(arguments: argparse.Namespace) -> int:
    from rich.console import Console

    from bench.environment import environment
    from reproduce.claims import rendering
    from reproduce.claims.ledger import load_ledger
    from reproduce.claims.registry import EMPIRICAL, STATIC
    from reproduce.spec import SpecError

    if arguments.static and arguments.experiment:
        raise SpecError(f"--static: decides nothing from runs; leave out {arguments.experiment!r} or --static")
    ledger = load_ledger(arguments.ledger, measurements={"static": STATIC, "empirical": EMPIRICAL})
    ledger = ledger.only(arguments.id) if arguments.id else ledger
    claims = [claim for claim in ledger.claims if claim.kind == "static" or not arguments.static]

    console, runs = Console(), _Runs(arguments.records, arguments.experiment)
    findings = []
    with Console(stderr=True).status("") as status:
        for number, claim in enumerate(claims, 1):
            status.update(f"{number} of {len(claims)}: {claim.id}")
            findings.append(_decide(claim, runs))
    _print(console, findings, parts=bool(arguments.id))
    if arguments.json:
        content = rendering.as_json(findings, environment())
        arguments.json.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    if arguments.markdown:
        arguments.markdown.write_text(rendering.markdown(findings, ledger.documents, _origin()))
    return 0


class _Runs:
    """What MLflow holds about each experiment that claims name, or why there is nothing; each read once."""

    def __init__(self, records: Path, experiment: str | None) -> None:
        from bench.tracking import tracking_uri

        self._uri = tracking_uri(records)
        self._all = experiment
        self._read: dict[str, Any] = {}
        if experiment is not None:
            from analysis import frames

            self._read[experiment] = frames.read(experiment, tracking_uri=self._uri)

    def of(self, claim: Claim) -> Any:
        """`analysis.frames.Recorded`, or the reason as a text."""
        name = self._all or claim.experiment
        if name is None:
            return "no experiment is named"
        if name not in self._read:
            from analysis import frames

            try:
                self._read[name] = frames.read(name, tracking_uri=self._uri)
            except frames.AnalysisError as error:
                self._read[name] = str(error)
        return self._read[name]


def _decide(claim: Claim, runs: _Runs) -> Finding:
    from reproduce.claims.registry import EMPIRICAL, STATIC
    from reproduce.claims.verdicts import NotMeasured, find, not_measured

    if claim.measurement is None:
        return not_measured(claim)
    if claim.kind == "static":
        return find(claim, STATIC[claim.measurement]())
    recorded = runs.of(claim)
    if isinstance(recorded, str):
        return not_measured(claim, recorded)
    try:
        return find(claim, EMPIRICAL[claim.measurement](recorded))
    except NotMeasured as reason:
        return not_measured(claim, str(reason))


def _print(console: Console, findings: list[Finding], *, parts: bool) -> None:
    from rich.table import Table

    from reproduce.claims.rendering import COLUMNS, PART_COLUMNS, counts, part_row, row

    widths = {"claim": 3, "expected": 2, "measured": 2, "evidence": 4}
    table = Table(header_style="bold", show_lines=True, expand=True)
    for title in COLUMNS:
        table.add_column(title, ratio=widths.get(title), no_wrap=title in ("id", "verdict"))
    for finding in findings:
        table.add_row(*row(finding))
    console.print(table, highlight=False)
    for finding in findings if parts else ():
        detail = Table(title=f"{finding.claim.id}: holds if {finding.claim.rule}", header_style="bold", box=None)
        for title in PART_COLUMNS:
            detail.add_column(title)
        for part in finding.parts:
            detail.add_row(*part_row(part))
        console.print(detail, highlight=False)
    console.print(counts(findings), highlight=False)


def _origin() -> str:
    """What the findings were measured on, as a sentence."""
    from bench.environment import environment

    found = environment()
    versions = ", ".join(f"{name} {found['packages'][name]}" for name in ("torch", "torchvision"))
    commit = f", commit {found['commit'][:7]}{' with changes' if found['dirty'] else ''}" if "commit" in found else ""
    machine = f"{found['threads']['usable_cpus']} cores of {found['machine']['cpu']}"
    return f"Measured on {datetime.date.today()} by `deeper claims`: {versions}, {machine}{commit}."
