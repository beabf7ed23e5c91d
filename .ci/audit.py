"""Audits the code with bandit and the pinned packages with pip-audit. `make audit` runs it.

docs/security.md judges what the two find. A finding that is not judged there fails the audit, and so does a judgement
of code in which bandit finds nothing any more. The advisories come from PyPI. Where its service cannot be asked, as
behind a mirror that holds only packages, the audit says that the packages are not audited, and does not fail for it.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
JUDGEMENTS = ROOT / "docs" / "security.md"
LOCK = ROOT / "requirements-dev.txt"
CODE = ("analysis", "bench", "reproduce", "slurm")
EVERYWHERE = "everywhere"
SERVICE_S = 25
"""Seconds after which the service of advisories counts as one that cannot be asked."""


@dataclass(frozen=True)
class Finding:
    """Something that one of the two programs has found."""

    kind: str
    """The number of bandit's test, such as B310, or the number of an advisory."""
    where: str
    """The file, relative to the root of the project, or the package."""
    text: str
    """The line for people."""


def read_judgements(page: str) -> set[tuple[str, str]]:
    """Read the tables of docs/security.md.

    Args:
        page: The text of the page. A row begins with a kind and the places that it judges, each in backquotes, or
            `everywhere`.

    Returns:
        The judged pairs of kind and place.
    """
    rows = re.findall(r"^\| `([A-Z][\w-]+)` \| ([^|]+) \|", page, flags=re.MULTILINE)
    return {(kind, place) for kind, places in rows for place in re.findall(r"`([^`]+)`", places) or [places.strip()]}


def judge(findings: Iterable[Finding], judged: set[tuple[str, str]]) -> tuple[list[str], set[tuple[str, str]]]:
    """Compare findings with the judgements.

    Returns:
        The lines of the findings that are not judged, and the judgements that meet no finding.
    """
    unjudged, unmet = [], set(judged)
    for finding in findings:
        matching = {(finding.kind, finding.where), (finding.kind, EVERYWHERE)} & judged
        unmet -= matching
        if not matching:
            unjudged.append(finding.text)
    return unjudged, unmet


def code_findings(report: Mapping[str, Any]) -> list[Finding]:
    """Read the findings of bandit's JSON."""
    return [
        Finding(
            result["test_id"],
            str(Path(result["filename"])),
            f"{result['filename']}:{result['line_number']}: {result['test_id']}: {result['issue_text']}",
        )
        for result in report["results"]
    ]


def package_findings(report: Mapping[str, Any]) -> tuple[list[Finding], int]:
    """Read the findings of pip-audit's JSON. Returns them and the number of packages that were audited."""
    audited = [package for package in report["dependencies"] if "skip_reason" not in package]
    found = [
        Finding(
            advisory["id"],
            package["name"],
            f"{package['name']} {package['version']}: {advisory['id']}; "
            f"mended in {', '.join(advisory['fix_versions']) or 'no version yet'}",
        )
        for package in audited
        for advisory in package["vulns"]
    ]
    return found, len(audited)


def audit_code() -> list[Finding]:
    """Run bandit on the code."""
    command = [sys.executable, "-m", "bandit", "--quiet", "--format", "json", "--recursive", *CODE]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, encoding="utf-8")
    report = json.loads(done.stdout)
    if report["errors"]:
        raise SystemExit(f"bandit could not read all files: {report['errors']}")
    return code_findings(report)


def audit_packages(lock: Path) -> tuple[list[Finding], int] | str:
    """Run pip-audit on a file of pinned packages.

    Returns:
        What `package_findings` returns, or the reason why the service of advisories cannot be asked.
    """
    command = [sys.executable, "-m", "pip_audit", "--requirement", str(lock), "--no-deps", "--disable-pip"]
    command += ["--format", "json", "--progress-spinner", "off", "--timeout", "5"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", timeout=SERVICE_S)
    except subprocess.TimeoutExpired:
        return f"no answer within {SERVICE_S} s"
    if not done.stdout.startswith("{"):
        return (done.stderr.strip().splitlines() or ["pip-audit printed nothing"])[-1]
    return package_findings(json.loads(done.stdout))


def main() -> int:
    """Audit code and packages. Returns the exit code: 1 if a finding is not judged, or a judgement is out of date."""
    judged = read_judgements(JUDGEMENTS.read_text(encoding="utf-8"))
    problems, unmet = judge(audit_code(), judged)
    problems += [
        f"docs/security.md: {kind} in {place} is found no more" for kind, place in sorted(unmet) if kind[0] == "B"
    ]

    pins = re.findall(r"^[a-z][\w.-]*==\S+", LOCK.read_text(encoding="utf-8"), flags=re.MULTILINE)
    with tempfile.TemporaryDirectory() as folder:
        one, all_of_them = Path(folder, "one.txt"), Path(folder, "all.txt")
        one.write_text(pins[0], encoding="utf-8")
        all_of_them.write_text("\n".join(pins), encoding="utf-8")
        answer = audit_packages(one)  # so that a service that knows none is not asked for every package
        if not isinstance(answer, str) and answer[1]:
            answer = audit_packages(all_of_them)
    if isinstance(answer, str) or not answer[1]:
        reason = answer if isinstance(answer, str) else f"it does not know {pins[0]}"
        print(f"packages: NOT AUDITED, the service of advisories cannot be asked: {reason}")
    else:
        found, audited = answer
        problems += judge(found, judged)[0]
        print(f"packages: {audited} of {len(pins)} audited, {len(found)} advisories")
    print(*problems, sep="\n", end="\n" if problems else "")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
