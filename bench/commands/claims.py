"""`deeper claims`: the ledger, decided from the network and from what MLflow holds."""

from __future__ import annotations

import argparse
import datetime
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.console.options import add_verb

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console

    from analysis.frames import Recorded
    from reproduce.claims.ledger import Claim
    from reproduce.claims.verdicts import Finding

IMAGENET_SUFFIX = "-imagenet"  # of the large twin of an experiment that a claim names

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

    from bench.machine.environment import environment
    from reproduce.claims import rendering
    from reproduce.claims.ledger import load_ledger
    from reproduce.claims.registry import names
    from reproduce.spec import SpecError

    if arguments.static and arguments.experiment:
        raise SpecError(f"--static: decides nothing from runs; leave out {arguments.experiment!r} or --static")
    ledger = load_ledger(arguments.ledger, measurements=names())
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
        arguments.json.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    if arguments.markdown:
        arguments.markdown.write_text(rendering.markdown(findings, ledger.documents, _origin()), encoding="utf-8")
    return 0


class _Runs:
    """What is recorded: the runs of each experiment that claims name, from MLflow, each read once; evaluations."""

    def __init__(self, records: Path, experiment: str | None) -> None:
        from bench.tracking.location import tracking_uri

        self._records, self._uri = records, tracking_uri(records)
        self._all = experiment
        self._read: dict[str, Recorded | str] = {}
        if experiment is not None:
            from analysis import frames

            self._read[experiment] = frames.read(experiment, tracking_uri=self._uri)

    def of(self, claim: Claim) -> Recorded:
        """The runs that decide a claim. Raises `NotMeasured` where there are none, `frames.AnalysisError` where the
        store does not answer."""
        from analysis import frames
        from reproduce.claims.verdicts import NotMeasured

        name = self._all or str(claim.experiment)
        if name not in self._read:
            try:
                self._read[name] = frames.read(name, tracking_uri=self._uri)
            except frames.NothingRecorded:
                self._read[name] = f"no run of {name} is recorded"
        found = self._read[name]
        if isinstance(found, str):
            raise NotMeasured(found)
        return found

    def evaluations(self) -> pd.DataFrame:
        from bench.records.evaluations import evaluation_table

        return evaluation_table(self._records)


def _decide(claim: Claim, runs: _Runs) -> Finding:
    from reproduce.claims.registry import EVALUATED, STATIC
    from reproduce.claims.verdicts import NotMeasured, find, not_measured

    if claim.measurement is None:
        return not_measured(claim)
    if claim.kind == "static":
        return find(claim, STATIC[claim.measurement]())
    try:
        if claim.measurement in EVALUATED:
            return find(claim, EVALUATED[claim.measurement](runs.evaluations()))
        return _decide_from(claim, runs.of(claim))
    except NotMeasured as reason:
        return not_measured(claim, str(reason))


def _decide_from(claim: Claim, recorded: Recorded) -> Finding:
    """The finding of a claim that runs decide. Raises `NotMeasured`."""
    from reproduce.claims.registry import EMPIRICAL
    from reproduce.claims.verdicts import NotMeasured, find

    if recorded.finished.empty:
        raise NotMeasured(f"{recorded.experiment} has no finished run")
    return find(claim, EMPIRICAL[str(claim.measurement)](recorded))


def of_experiment(recorded: Recorded) -> list[dict[str, Any]]:
    """What an experiment's runs say of the claims that it, or the one of its name for CPUs, is made for; as in the
    JSON."""
    from reproduce.claims import rendering
    from reproduce.claims.ledger import load_ledger
    from reproduce.claims.registry import EMPIRICAL, names
    from reproduce.claims.verdicts import NotMeasured, not_measured

    name = recorded.experiment.removesuffix(IMAGENET_SUFFIX)
    findings = []
    for claim in load_ledger(measurements=names()).claims:
        if claim.experiment == name and claim.measurement in EMPIRICAL:
            try:
                findings.append(_decide_from(claim, recorded))
            except NotMeasured as reason:
                findings.append(not_measured(claim, str(reason)))
    return rendering.rows_as_json(findings)


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
    from bench.machine.environment import environment

    found = environment()
    versions = ", ".join(f"{name} {found['packages'][name]}" for name in ("torch", "torchvision"))
    commit = f", commit {found['commit'][:7]}{' with changes' if found['dirty'] else ''}" if "commit" in found else ""
    machine = f"{found['threads']['usable_cpus']} cores of {found['machine']['cpu']}"
    return f"Measured on {datetime.date.today()} by `deeper claims`: {versions}, {machine}{commit}."
