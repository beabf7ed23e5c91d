"""The result of training over nodes, which `deeper slurm check` keeps where `deeper plan` looks for it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench.machine.environment import machine_and_devices
from slurm.trial.commands import keep_result


@pytest.fixture
def result(tmp_path: Path) -> Path:
    file = tmp_path / "scaling-nodes.json"
    content = {"environment": machine_and_devices(), "setting": {"links": [{"backend": "gloo"}]}}
    file.write_text(json.dumps(content), encoding="utf-8")
    return file


def test_a_result_is_kept_by_the_kind_of_the_nodes(
    result: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    said = keep_result(result)
    [kept] = (tmp_path / "cache" / "deeper" / "bench").glob("*/scaling-nodes.json")
    assert said == f"kept for `deeper plan --device ...`: {kept}"
    assert json.loads(kept.read_bytes()) == json.loads(result.read_bytes())


def test_a_cache_that_cannot_be_written_is_no_failure_of_the_check(
    result: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(result))
    said = keep_result(result)
    assert "not kept for `deeper plan`: " in said
    assert "Not a directory" in said
    assert said.endswith(f"; give it the result by --rate {result}")
