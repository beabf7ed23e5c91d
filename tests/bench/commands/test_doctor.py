"""The findings of the doctor, and the hints that come with them."""

from __future__ import annotations

import http.server
import json
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from bench import cli
from bench.commands.doctor import command, hardware, software, storage
from bench.console.checks import Check
from bench.machine import filesystems
from reproduce.execution.precision import resolve_precision
from reproduce.native import Implementation, ImplementationError, Library

CREDENTIALS = ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN")


def checks_of(records: Path, data: Path) -> dict[str, Check]:
    return {check.name: check for check in command.machine_checks(records, data)}


@pytest.fixture(scope="module")
def checks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Check]:
    folder = tmp_path_factory.mktemp("doctor")
    return checks_of(folder / "records", folder / "data")


def test_the_environment_of_the_tests_has_everything_that_is_needed(checks: dict[str, Check]) -> None:
    for name in ("Python", "torch", "torchvision", "ffcv", "ray", "mlflow"):
        assert checks[name].status == "ok", checks[name]


def test_every_failure_comes_with_a_hint(checks: dict[str, Check]) -> None:
    assert all(check.hint for check in checks.values() if check.status == "fail")


def test_the_folders_need_not_exist_yet(checks: dict[str, Check]) -> None:
    assert "GiB free" in checks["disk for records"].detail
    assert checks["data sets"].status == "warn"
    assert "data prepare" in checks["data sets"].hint


def test_a_broken_data_set_is_named(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "manifest.json").write_text("{}", encoding="utf-8")
    found = checks_of(tmp_path, tmp_path)["data sets"]
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
    found = checks_of(tmp_path, tmp_path)["file system of records"]
    assert (found.status, bool(found.hint)) == (status, status == "warn")
    assert words in found.detail


def test_a_tracking_server_that_does_not_answer_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, not listening: a connection is refused
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{taken.getsockname()[1]}")
        found = checks_of(tmp_path, tmp_path)["tracking"]
    assert found.status == "warn"
    assert "MLFLOW_TRACKING_URI" in found.hint


class AsksForAPassword(http.server.BaseHTTPRequestHandler):
    """Answers as MLflow's server does, behind a door that wants the password `me:hunter22`."""

    def __getattr__(self, name: str) -> Callable[[], None]:
        if name != "do_GET":
            raise AttributeError(name)
        return lambda: self.send_error(200 if self.headers["Authorization"] == "Basic bWU6aHVudGVyMjI=" else 401)

    def log_message(self, *_: object) -> None:
        pass


@pytest.mark.parametrize(("user", "status"), [("me:hunter22@", "ok"), ("me:hunter23@", "warn"), ("", "warn")])
def test_a_tracking_server_is_asked_with_the_password_and_past_the_proxy(
    user: str, status: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (*CREDENTIALS, "no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    with http.server.HTTPServer(("127.0.0.1", 0), AsksForAPassword) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://{user}127.0.0.1:{server.server_port}")
        (found,) = [check for check in storage.checks(tmp_path, tmp_path) if check.name == "tracking"]
    assert found.status == status
    assert f"http://127.0.0.1:{server.server_port}" in found.detail
    assert "hunter" not in found.detail
    assert status == "ok" or "401" in found.detail
    assert status == "ok" or "MLFLOW_TRACKING_PASSWORD" in found.hint


def test_a_store_that_cannot_be_made_is_a_failure_and_the_other_findings_are_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    checks = {check.name: check for check in storage.checks(tmp_path / "what?", tmp_path)}
    assert checks["tracking"].status == "fail"
    assert "use another folder" in checks["tracking"].hint
    assert checks["disk for records"].status == "ok"


@pytest.fixture
def _without_slurm(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))


@pytest.mark.usefixtures("_without_slurm")
def test_json_lists_the_findings_of_the_machine_and_of_extensions(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["doctor", "--json", "--records", str(tmp_path), "--data", str(tmp_path)]) == 0
    findings = json.loads(capsys.readouterr().out)
    assert {"name", "status", "detail", "hint"} == set(findings[0])
    assert {"torchvision", "data sets", "SLURM"} <= {finding["name"] for finding in findings}


def test_a_failing_check_sets_the_exit_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    failing = Check("[red]", "fail", "not :a: package", "install it")
    monkeypatch.setattr(command, "machine_checks", lambda records, data: [failing])
    assert cli.main(["doctor"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split(maxsplit=2) == ["fail", "[red]", "not :a: package"]
    assert lines[2].strip() == "hint: install it"


@pytest.mark.parametrize(
    ("capabilities", "status"),
    [({"amx_bf16": True}, "ok"), ({"avx512_bf16": True}, "ok"), ({"bf16": True}, "warn"), ({}, "warn")],
    ids=["AMX", "AVX-512", "Arm", "none"],
)
def test_bf16_is_judged_as_training_judges_it(
    capabilities: dict[str, bool], status: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    (found,) = (check for check in hardware.checks() if check.name == "bf16")
    assert found.status == status
    trains = resolve_precision("auto", torch.device("cpu")).describe()["precision"]
    assert f"precision auto trains in {trains}" in found.detail


def test_a_decoder_that_is_missing_fails_and_says_how_to_do_without(monkeypatch: pytest.MonkeyPatch) -> None:
    def implementation(library: Library) -> Implementation:
        raise ImplementationError("decoder: no C compiler: cc; install one, or set DEEPER_DECODER=stock")

    monkeypatch.delenv("DEEPER_DECODER", raising=False)
    monkeypatch.setattr(Library, "implementation", implementation)
    (found,) = (check for check in software.checks() if check.name == "decoder")
    assert found.status == "fail"
    assert "or set DEEPER_DECODER=stock" in found.detail
    assert "unset" not in found.hint


@pytest.mark.parametrize(("value", "words"), [("on", "steps are replayed"), ("off", "off; DEEPER_GRAPH=on")])
def test_where_there_is_a_gpu_the_use_of_graphs_is_said(
    value: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setenv("DEEPER_GRAPH", value)
    (check,) = software._graphs()
    assert (check.name, check.status) == ("CUDA graphs", "ok")
    assert check.detail.startswith(words)


@pytest.mark.parametrize(
    ("dropped", "status", "words"),
    [((), "ok", "agree with torch's"), (("max pool: other maps",), "warn", "torch computes max pool: other maps")],
    ids=["agree", "disagree"],
)
def test_kernels_for_gpus_are_compared_where_there_is_one(
    dropped: tuple[str, ...], status: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("triton")
    assert software._gpu_kernels() == software._graphs() == []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(software, "check_kernels", lambda *_: dropped)
    (check,) = software._gpu_kernels()
    assert check.detail.startswith("torch (DEEPER_KERNELS=native selects those in Triton"), "nobody has measured them"
    monkeypatch.setenv("DEEPER_KERNELS", "native")
    (check,) = software._gpu_kernels()
    assert (check.name, check.status) == ("GPU kernels", status)
    assert check.detail.startswith("native (triton ")
    assert words in check.detail
