"""Probes under time limits, in real processes: what is kept of those that end, fail, die, hang or cannot start."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from rich.console import Console

from bench.console.exit_codes import DONE, FAILED, INTERRUPTED
from bench.suites.gpu import runner
from bench.suites.gpu.probe import Probe, ProbeResult
from bench.suites.gpu.runner import GpuOptions, ProbeRunner
from bench.suites.gpu.store import ProbeStore
from reproduce.errors import UserError

KIND = "amd-avx2"
HERE = Path(__file__).parent


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.syspath_prepend(str(HERE))
    import fake_probes

    yield fake_probes
    del sys.modules["fake_probes"]


@pytest.fixture
def store(tmp_path: Path) -> ProbeStore:
    return ProbeStore(tmp_path, KIND, "a CPU")


def runner_of(store: ProbeStore, stop_reason: Callable[[], str | None] = lambda: None) -> ProbeRunner:
    return ProbeRunner(store, torch.device("cpu"), Console(quiet=True), stop_reason)


def run(store: ProbeStore, *probes: Probe, minutes: float = 5.0, **options: Any) -> list[ProbeResult]:
    return runner_of(store).run(probes, minutes=minutes, **options)


def written(store: ProbeStore, name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(store.path(name).read_text(encoding="utf-8"))
    return content


def test_what_a_probe_reports_is_written_with_its_environment(store: ProbeStore, fake: Any) -> None:
    (result,) = run(store, fake.probe(fake.ends))
    assert (result.outcome, result.passed) == ("done", True)
    content = written(store, "ends")
    assert content["suite"] == "gpu"
    assert content["setting"] == {"kind": KIND, "device": "a CPU"}
    assert content["result"]["tables"] == [{"title": "figures", "rows": {"one": {"images/s": 10.0}}}]
    assert "packages" in content["environment"]
    assert not store.log("ends").exists()


def test_after_a_probe_that_fails_or_dies_the_next_one_runs(store: ProbeStore, fake: Any) -> None:
    failed, died, lacking, done = run(
        store, fake.probe(fake.fails), fake.probe(fake.dies), fake.probe(fake.lacks), fake.probe(fake.ends)
    )
    assert (failed.outcome, failed.why) == ("failed", "ValueError: a first line")
    assert failed.tables, "what it reported before is kept"
    assert "printed before" in store.log("fails").read_text(encoding="utf-8")
    assert (died.outcome, died.why) == ("failed", "dies: its process ended with exit code 3")
    assert (lacking.outcome, lacking.why) == ("absent", "there is no such tool")
    assert done.outcome == "done"


def test_a_probe_that_hangs_is_ended_at_its_limit_with_its_child_processes(
    store: ProbeStore, fake: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "MIN_LIMIT_S", 15.0)
    (result,) = run(store, fake.probe(fake.hangs))
    assert (result.outcome, result.why) == ("cut", "ended at its limit of 15 s")
    (table,) = result.tables
    child = table.rows["one"]["process"]
    assert isinstance(child, float)
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(int(child))
        psutil.wait_procs([process], timeout=30)
        assert not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def test_an_interruption_keeps_what_was_reported_by_then(store: ProbeStore, fake: Any) -> None:
    def once_written() -> str | None:
        return "interrupted by hand" if store.path("hangs").exists() else None

    probes = [fake.probe(fake.hangs), fake.probe(fake.ends)]
    hung, waiting = runner_of(store, once_written).run(probes, minutes=5)
    assert (hung.outcome, hung.why) == ("cut", "interrupted by hand")
    assert written(store, "hangs")["result"]["tables"]
    assert (waiting.outcome, waiting.why) == ("cut", "not started: interrupted by hand")


def test_missing_requirements_are_named_without_starting_a_process(store: ProbeStore, fake: Any) -> None:
    (result,) = run(store, fake.probe(fake.hangs, packages=("torch", "no_such_package"), gpu=True))
    assert (result.outcome, result.why) == ("absent", "not installed: no_such_package; there is no GPU")
    assert written(store, "hangs")["result"]["outcome"] == "absent"


def test_the_same_command_continues_and_force_repeats(store: ProbeStore, fake: Any) -> None:
    probe = fake.probe(fake.ends)
    (first,) = run(store, probe)
    assert run(store, probe) == [first]
    (again,) = run(store, probe, force=True)
    assert again.notes != first.notes, "another process"


def test_results_of_another_commit_are_not_used(store: ProbeStore, fake: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from bench.suites.gpu import store as module

    run(store, fake.probe(fake.ends))
    monkeypatch.setattr(module, "environment", lambda: {"commit": "another"})
    assert store.read("ends") is None


def test_once_the_time_is_over_no_probe_starts(store: ProbeStore, fake: Any) -> None:
    (result,) = run(store, fake.probe(fake.hangs), minutes=0.01)
    assert (result.outcome, result.why) == ("cut", "not started: the 0.01 minutes were over")
    assert not store.path("hangs").exists()


def test_a_folder_with_another_machines_results_is_refused(store: ProbeStore, fake: Any) -> None:
    run(store, fake.probe(fake.ends))
    with pytest.raises(UserError, match=f"--output: .* holds results of {KIND}, and this machine is nvidia-h200"):
        ProbeStore(store.folder.parent, "nvidia-h200", "NVIDIA H200")


@pytest.mark.parametrize(("name", "code"), [("ends", DONE), ("lacks", DONE), ("misses", FAILED), ("fails", FAILED)])
def test_the_exit_code_tells_whether_all_is_right(
    tmp_path: Path, fake: Any, capsys: pytest.CaptureFixture[str], name: str, code: int
) -> None:
    options = GpuOptions(output=tmp_path)
    assert runner.main(options, [fake.probe(getattr(fake, name))]) == code
    assert capsys.readouterr().out.startswith("## deeper bench gpu on ")


def test_probes_that_did_not_start_are_left_for_the_same_command(tmp_path: Path, fake: Any) -> None:
    assert runner.main(GpuOptions(output=tmp_path, minutes=0.01), [fake.probe(fake.ends)]) == INTERRUPTED


def test_an_unknown_probe_is_refused_with_the_names_of_all(tmp_path: Path, fake: Any) -> None:
    with pytest.raises(UserError, match="--probe: 'ned' is none of ends, fails"):
        runner.main(GpuOptions(output=tmp_path, probes=("ned",)), [fake.probe(fake.ends), fake.probe(fake.fails)])


INTERRUPTED_SCRIPT = """
import sys
from pathlib import Path
sys.path.insert(0, {here!r})
import fake_probes
from bench.suites.gpu.runner import GpuOptions, main
if __name__ == "__main__":
    sys.exit(main(GpuOptions(output=Path({out!r})), [fake_probes.probe(fake_probes.hangs, seconds=100.0)]))
"""


def test_ctrl_c_prints_the_table_of_what_there_is(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(INTERRUPTED_SCRIPT.format(here=str(HERE), out=str(tmp_path)), encoding="utf-8")
    process = subprocess.Popen(
        [sys.executable, str(script)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, encoding="utf-8"
    )
    deadline = time.monotonic() + 120
    while not (tmp_path / "gpu" / "hangs.json").exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    printed, errors = process.communicate(timeout=60)
    assert process.returncode == INTERRUPTED, errors
    assert "**hangs: figures**" in printed
    assert "interrupted by hand" in printed
    assert "Traceback" not in errors
