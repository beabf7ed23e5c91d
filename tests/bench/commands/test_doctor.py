"""What the doctor finds, and that it says what to do where something is amiss."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest

from bench.commands import doctor
from bench.machine import filesystems


@pytest.fixture(scope="module")
def checks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, doctor.Check]:
    folder = tmp_path_factory.mktemp("doctor")
    return {check.name: check for check in doctor.doctor(folder / "records", folder / "data")}


def test_the_environment_of_the_tests_has_all_that_is_needed(checks: dict[str, doctor.Check]) -> None:
    for name in ("Python", "torch", "torchvision", "ffcv", "ray", "mlflow"):
        assert checks[name].status == "ok", checks[name]


def test_every_failure_comes_with_a_cure(checks: dict[str, doctor.Check]) -> None:
    assert all(check.cure for check in checks.values() if check.status == "fail")


def test_the_places_need_not_exist_yet(checks: dict[str, doctor.Check]) -> None:
    assert "GiB free" in checks["disk for records"].detail
    assert checks["data sets"].status == "warn"
    assert "data prepare" in checks["data sets"].cure


def test_a_broken_data_set_is_named(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "manifest.json").write_text("{}", encoding="utf-8")
    found = {check.name: check for check in doctor.doctor(tmp_path, tmp_path)}["data sets"]
    assert found.status == "warn"
    assert str(tmp_path / "pictures" / "manifest.json") in found.detail


@pytest.mark.parametrize(
    ("options", "status", "words"),
    [
        ("vers=4.2,local_lock=none", "ok", "locks reach other hosts"),
        ("vers=3,nolock", "warn", "do not reach other hosts"),
    ],
)
def test_records_on_a_network_need_locks_that_all_hosts_see(
    options: str, status: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mountinfo").write_text(f"1 0 0:1 / / rw - nfs server:/ rw,{options}\n", encoding="utf-8")
    monkeypatch.setattr(filesystems, "MOUNTS", tmp_path / "mountinfo")
    found = {check.name: check for check in doctor.doctor(tmp_path, tmp_path)}["file system of records"]
    assert (found.status, bool(found.cure)) == (status, status == "warn")
    assert words in found.detail


def test_a_tracking_server_that_is_away_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, not listening: a connection is refused
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{taken.getsockname()[1]}")
        found = {check.name: check for check in doctor.doctor(tmp_path, tmp_path)}["tracking"]
    assert found.status == "warn"
    assert "MLFLOW_TRACKING_URI" in found.cure


def test_the_findings_read_by_programs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor.run_doctor(records=tmp_path, data=tmp_path, as_json=True) == 0
    findings = json.loads(capsys.readouterr().out)
    assert {"name", "status", "detail", "cure"} == set(findings[0])


def test_the_findings_read_by_people(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    doctor.run_doctor(records=tmp_path, data=tmp_path, as_json=False)
    assert "torchvision" in capsys.readouterr().out
