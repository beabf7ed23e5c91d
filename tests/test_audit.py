"""The audit of code and packages: what is not judged fails it, and what cannot be asked is said."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent

PAGE = """
| kind | where | judgement |
|---|---|---|
| `B101` | everywhere | fine |
| `B310` | `bench/a.py`, `bench/b.py` | fine |
| `GHSA-1234-abcd` | `torch` | fine |
"""


@pytest.fixture(scope="module")
def audit() -> ModuleType:
    spec = importlib.util.spec_from_file_location("audit", ROOT / ".ci" / "audit.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["audit"] = module
    spec.loader.exec_module(module)
    return module


def test_the_tables_of_the_page_are_read(audit: ModuleType) -> None:
    assert audit.read_judgements(PAGE) == {
        ("B101", "everywhere"),
        ("B310", "bench/a.py"),
        ("B310", "bench/b.py"),
        ("GHSA-1234-abcd", "torch"),
    }


def test_a_finding_without_a_judgement_and_a_judgement_without_a_finding_are_told(audit: ModuleType) -> None:
    judged = audit.read_judgements(PAGE)
    findings = [
        audit.Finding("B101", "bench/c.py", "an assert"),
        audit.Finding("B310", "bench/a.py", "judged"),
        audit.Finding("B310", "bench/c.py", "not judged"),
    ]
    assert audit.judge(findings, judged) == (["not judged"], {("B310", "bench/b.py"), ("GHSA-1234-abcd", "torch")})


# As pip-audit 2.10.1 prints it: the first where the index has no JSON API, the second with advisories.
UNKNOWN = {
    "dependencies": [{"name": "torch", "skip_reason": "Dependency not found on PyPI and could not be audited: torch"}],
    "fixes": [],
}
VULNERABLE = {
    "dependencies": [
        {
            "name": "torch",
            "version": "2.0",
            "vulns": [{"id": "GHSA-1", "fix_versions": ["2.1"], "aliases": [], "description": ""}],
        },
        {"name": "numpy", "version": "2.0", "vulns": []},
    ],
    "fixes": [],
}


@pytest.mark.parametrize(
    ("stdout", "stderr", "code", "words"),
    [
        (json.dumps(UNKNOWN), "", 0, "NOT AUDITED, the service of advisories cannot be asked: it does not know"),
        ("", "requests.exceptions.ConnectionError: refused", 0, "NOT AUDITED, .*: requests.*: refused"),
        (json.dumps(VULNERABLE), "", 1, "1 advisories\ntorch 2.0: GHSA-1; mended in 2.1"),
    ],
)
def test_packages_are_audited_or_the_audit_says_that_they_are_not(
    stdout: str,
    stderr: str,
    code: int,
    words: str,
    audit: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(command, 1, stdout, stderr)

    monkeypatch.setattr(audit, "audit_code", list)
    monkeypatch.setattr(audit, "read_judgements", lambda page: set())
    monkeypatch.setattr(audit.subprocess, "run", run)
    assert audit.main() == code
    assert re.search(words, capsys.readouterr().out)


def test_a_service_that_does_not_answer_in_time_is_one_that_cannot_be_asked(
    audit: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(command: list[str], *, timeout: float, **_: Any) -> None:
        raise subprocess.TimeoutExpired(command, timeout)

    monkeypatch.setattr(audit.subprocess, "run", run)
    assert audit.audit_packages(Path("lock")) == "no answer within 25 s"
