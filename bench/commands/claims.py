"""Implements `deeper claims`: decides the claims of the ledger by the network, runs, evaluations and benchmarks."""

from __future__ import annotations

import argparse
import datetime
import sys
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.commands.experiments.names import own_plan
from bench.console.options import add_command, add_json, add_plan, any_path, output_file
from bench.console.output import plain_console, print_result, show, write_output

if TYPE_CHECKING:
    from collections.abc import Collection

    import pandas as pd
    from rich.console import Console

    from analysis.frames import Recorded
    from analysis.tables import Table
    from bench.console.tables import FittedTable
    from reproduce.claims.ledger import Claim, Kind
    from reproduce.claims.verdicts import Finding

EXAMPLES = """examples:
  deeper claims --static                     # what the network alone decides: takes seconds, needs no runs
  deeper claims --id P-table1                # one claim with all its parts
  deeper claims claim-heads                  # empirical claims from the runs of this experiment
  deeper claims --output claims.json --markdown claims.md

A claim that does not hold is a finding: the exit code is 0 all the same.
"""


def add_to(subparsers: Any, places: argparse.ArgumentParser) -> None:
    """Add `deeper claims` to the command line."""
    help = "Decide the claims of the ledger: what was expected, what was measured, verdict, evidence."
    parser = add_command(subparsers, places, "claims", _claims, help, examples=EXAMPLES)
    parser.add_argument(
        "experiment",
        nargs="?",
        help="Decide all empirical claims from the runs of this experiment. Default: each claim from its own.",
    )
    parser.add_argument("--static", action="store_true", help="Only claims that the network alone decides.")
    parser.add_argument("--id", action="append", default=[], help="Only this claim, with its parts. May be repeated.")
    parser.add_argument("--ledger", type=any_path, metavar="FILE", help="Another ledger than the shipped one.")
    parser.add_argument(
        "--markdown", type=output_file, metavar="FILE", help="Write the findings with all parts to this file."
    )
    add_plan(parser)
    add_json(parser)


def measurements() -> dict[Kind, Collection[str]]:
    """Return, for each kind of claim, the names of the measurements that a claim of this kind may have."""
    from analysis.claims.decide import BENCHMARKED, EMPIRICAL, EVALUATED
    from reproduce.claims.registry import STATIC

    return {"static": STATIC.keys(), "empirical": EMPIRICAL.keys() | EVALUATED.keys() | BENCHMARKED.keys()}


def _claims(arguments: argparse.Namespace) -> int:
    from reproduce.claims.ledger import load_ledger
    from reproduce.spec import SpecError

    if arguments.static and arguments.experiment:
        raise SpecError(f"--static: decides nothing from runs; leave out {arguments.experiment!r} or --static")
    if arguments.plan and not arguments.experiment:
        raise SpecError(f"--plan: {arguments.plan!r} is a plan of one experiment; name the experiment as well")
    ledger = load_ledger(arguments.ledger)
    chosen = ledger.only(arguments.id) if arguments.id else ledger

    from rich.text import Text

    from analysis.claims import rendering
    from bench.machine.environment import environment

    ledger.check_measurements(measurements())
    claims = [claim for claim in chosen.claims if claim.kind == "static" or not arguments.static]

    material = _Material(arguments.records, arguments.experiment, arguments.plan)
    findings = []
    with plain_console(stderr=True).status("") as status:
        for number, claim in enumerate(claims, 1):
            status.update(Text(f"{number} of {len(claims)}: {claim.id}"))  # not a string, which would be markup
            findings.append(_decide(claim, material))
    for notice in material.notices:
        print(notice, file=sys.stderr)
    content = {**rendering.as_json(findings, environment()), "notices": material.notices}
    print_result(arguments, content, lambda: _print(plain_console(), findings, parts=bool(arguments.id)))
    if arguments.markdown:
        write_output("--markdown", arguments.markdown, rendering.markdown(findings, chosen.documents, _origin()))
    return 0


class _Material:
    """The recorded runs and evaluations by which claims are decided; each experiment is read from MLflow only once."""

    def __init__(self, records: Path, experiment: str | None, plan: str | None) -> None:
        """Read the runs of `experiment`, which then decide all claims. None leaves each claim its own experiment.

        Runs are those of `plan`, or of the present plan if it is None.
        """
        from bench.tracking.location import tracking_uri

        self._records, self._tracking_uri = records, tracking_uri(records)
        self._experiment, self._plan = experiment, plan
        self._recorded: dict[str, Recorded | None] = {}
        if experiment is not None:
            self._recorded[experiment] = self._read(experiment)

    def _read(self, name: str) -> Recorded:
        from analysis.frames import read

        own = own_plan(self._records, name)
        return read(name, tracking_uri=self._tracking_uri, plan=self._plan, own=own)

    @property
    def notices(self) -> list[str]:
        """Sentences on unfinished runs, on other plans and runs, and on evaluations that are left out."""
        from bench.records.evaluations import evaluation_files

        lines = []
        for name, found in self._recorded.items():
            if found is None:
                continue
            if found.choice.plan is not None and len(found.finished) < len(found.runs):
                lines.append(f"{name}: {len(found.finished)} of {len(found.runs)} planned runs are finished.")
            lines += [f"{name}: {notice}" for notice in found.notices]
        others = len(evaluation_files(self._records)) - len(self.evaluations) if "evaluations" in vars(self) else 0
        if others:
            lines.append(f"evaluations: {others} of runs of other plans left out.")
        return lines

    def runs(self, claim: Claim) -> Recorded | None:
        """Return the runs that decide a claim, or None if its experiment has none.

        Raises:
            AnalysisError: The store does not answer, or MLflow is not installed.
        """
        from analysis.frames import NothingRecordedError

        name = self._experiment or str(claim.experiment)
        if name not in self._recorded:
            try:
                self._recorded[name] = self._read(name)
            except NothingRecordedError:
                self._recorded[name] = None
        return self._recorded[name]

    @cached_property
    def evaluations(self) -> pd.DataFrame:
        from bench.records.evaluations import evaluation_table

        chosen = {self._experiment: self._plan} if self._experiment and self._plan else {}
        return evaluation_table(self._records, chosen)


def _decide(claim: Claim, material: _Material) -> Finding:
    from analysis.claims import benchmarks
    from analysis.claims.decide import BENCHMARKED, EVALUATED, decide, decide_by_benchmarks, decide_by_evaluations
    from bench.results.store import committed_results
    from reproduce.claims.registry import STATIC
    from reproduce.claims.verdicts import find, not_measured

    if claim.measurement is None:
        return not_measured(claim)
    if claim.kind == "static":
        return find(claim, STATIC[claim.measurement]())
    if claim.measurement in BENCHMARKED:
        return decide_by_benchmarks(claim, committed_results(benchmarks.SUITE))
    if claim.measurement in EVALUATED:
        return decide_by_evaluations(claim, material.evaluations)
    recorded = material.runs(claim)
    if recorded is None:
        return not_measured(claim, f"no run of {claim.experiment} is recorded")
    return decide(claim, recorded)


def _print(console: Console, findings: list[Finding], *, parts: bool) -> None:
    """Print all claims and the number of claims with each verdict; `parts` adds a table of parts for each claim."""
    from analysis.claims.rendering import as_rows, count_verdicts, design_text, ledger_table, parts_table

    rows = as_rows(findings)
    show(console, _fitted(ledger_table(rows)))
    for finding in findings if parts else ():
        show(console, "", f"{finding.claim.id}: holds if {finding.claim.rule}", _fitted(parts_table(finding.parts)))
        if finding.claim.design is not None:
            show(console, f"{finding.claim.id}: design. {design_text(finding.claim.design)}")
    show(console, "", count_verdicts(rows))


def _fitted(table: Table) -> FittedTable:
    from bench.console.tables import Column, FittedTable

    *columns, last = table.columns
    titles = [*map(Column, columns), Column(last, prose=True)]
    return FittedTable(titles, [[cell.text for cell in cells] for cells in table.rows])


def _origin() -> str:
    """Return a sentence with the date and the environment of the measurements."""
    from bench.machine.environment import environment

    found = environment()
    versions = ", ".join(f"{name} {found['packages'][name]}" for name in ("torch", "torchvision"))
    commit = f", commit {found['commit'][:7]}{' with changes' if found['dirty'] else ''}" if "commit" in found else ""
    machine = f"{found['threads']['usable_cpus']} cores of {found['machine']['cpu']}"
    return f"Measured on {datetime.date.today()} by `deeper claims`: {versions}, {machine}{commit}."
