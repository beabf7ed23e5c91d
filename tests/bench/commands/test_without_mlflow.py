"""Without MLflow, as on a cluster that got a bundle without it, a command says so in one line."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest

from bench import cli
from bench.commands.doctor import software
from bench.tracking import publisher


@pytest.fixture(autouse=True)
def no_mlflow(monkeypatch: pytest.MonkeyPatch) -> None:
    find_spec = importlib.util.find_spec

    def find(name: str, package: str | None = None) -> ModuleSpec | None:
        return None if name == "mlflow" else find_spec(name, package)

    monkeypatch.setattr(importlib.util, "find_spec", find)


@pytest.mark.parametrize("command", [("run", "quickstart"), ("report", "quickstart"), ("dashboard",)])
def test_a_command_that_needs_it_says_so(
    command: Sequence[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mlflow.db").touch()
    assert cli.main([*command, "--records", str(tmp_path), "--data", str(tmp_path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("deeper: MLflow is not installed here")


def test_running_without_publishing_gets_as_far_as_the_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    places = ("--records", str(tmp_path), "--data", str(tmp_path))
    assert cli.main(["run", "quickstart", "--no-publish", *places]) == 2
    assert "fashion-mnist" in capsys.readouterr().err


def test_the_publisher_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        publisher.main(["--records", str(tmp_path), "--once"])
    assert "MLflow is not installed here" in capsys.readouterr().err


def test_the_doctor_warns(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", absent)
    check = software._mlflow()
    assert check.status == "warn"
    assert "--no-publish" in check.hint
