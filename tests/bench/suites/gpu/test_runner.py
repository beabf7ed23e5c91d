"""Parts under their limits, in real processes: what is kept of those that end, fail, die, hang or cannot begin."""

from __future__ import annotations

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
from bench.suites.gpu.part import Part, Result
from bench.suites.gpu.runner import GpuOptions, Suite
from bench.suites.gpu.store import Store
from reproduce.spec import SpecError

KIND = "amd-avx2"
HERE = Path(__file__).parent


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.syspath_prepend(str(HERE))
    import fake_parts

    yield fake_parts
    del sys.modules["fake_parts"]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path, KIND, "a CPU")


def suite(store: Store, stopped: Callable[[], str | None] = lambda: None) -> Suite:
    return Suite(store, torch.device("cpu"), Console(quiet=True), stopped)


def run(store: Store, *parts: Part, minutes: float = 5.0, **options: Any) -> list[Result]:
    return suite(store).run(parts, minutes=minutes, **options)


def written(store: Store, name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(store.path(name).read_text(encoding="utf-8"))
    return content


def test_what_a_part_tells_is_written_with_what_it_takes_to_judge_it(store: Store, fake: Any) -> None:
    (result,) = run(store, fake.part(fake.ends))
    assert (result.outcome, result.passed) == ("done", True)
    content = written(store, "ends")
    assert content["suite"] == "gpu"
    assert content["setting"] == {"kind": KIND, "device": "a CPU"}
    assert content["result"]["tables"] == [{"title": "figures", "rows": {"one": {"images/s": 10.0}}}]
    assert "packages" in content["environment"]
    assert not store.log("ends").exists()


def test_a_part_that_fails_or_dies_is_named_and_the_next_one_runs(store: Store, fake: Any) -> None:
    failed, died, lacking, done = run(
        store, fake.part(fake.fails), fake.part(fake.dies), fake.part(fake.lacks), fake.part(fake.ends)
    )
    assert (failed.outcome, failed.why) == ("failed", "ValueError: a first line")
    assert failed.tables, "what it told before is kept"
    assert "printed before" in store.log("fails").read_text(encoding="utf-8")
    assert (died.outcome, died.why) == ("failed", "dies: its process ended with exit code 3")
    assert (lacking.outcome, lacking.why) == ("absent", "there is no such tool")
    assert done.outcome == "done"


def test_a_part_that_hangs_is_ended_at_its_limit_with_all_that_it_started(
    store: Store, fake: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "LEAST_LIMIT_S", 15.0)
    (result,) = run(store, fake.part(fake.hangs))
    assert (result.outcome, result.why) == ("cut", "ended at its limit of 15 s")
    (table,) = result.tables
    below = table.rows["one"]["process"]
    assert isinstance(below, float)
    assert not psutil.pid_exists(int(below)) or psutil.Process(int(below)).status() == psutil.STATUS_ZOMBIE


def test_an_interruption_keeps_what_is_on_disk_by_then(store: Store, fake: Any) -> None:
    def once_written() -> str | None:
        return "interrupted by hand" if store.path("hangs").exists() else None

    parts = [fake.part(fake.hangs), fake.part(fake.ends)]
    hung, waiting = suite(store, once_written).run(parts, minutes=5)
    assert (hung.outcome, hung.why) == ("cut", "interrupted by hand")
    assert written(store, "hangs")["result"]["tables"]
    assert (waiting.outcome, waiting.why) == ("cut", "not begun: interrupted by hand")


def test_what_the_machine_lacks_is_named_without_a_process(store: Store, fake: Any) -> None:
    (result,) = run(store, fake.part(fake.hangs, packages=("torch", "no_such_package"), gpu=True))
    assert (result.outcome, result.why) == ("absent", "not installed: no_such_package; there is no GPU")
    assert written(store, "hangs")["result"]["outcome"] == "absent"


def test_the_same_again_goes_on_with_what_is_missing_and_force_repeats(store: Store, fake: Any) -> None:
    part = fake.part(fake.ends)
    (first,) = run(store, part)
    assert run(store, part) == [first]
    (again,) = run(store, part, force=True)
    assert again.notes != first.notes, "another process"


def test_results_of_another_commit_are_not_gone_on_with(
    store: Store, fake: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bench.suites.gpu import store as module

    run(store, fake.part(fake.ends))
    monkeypatch.setattr(module, "environment", lambda: {"commit": "another"})
    assert store.read("ends") is None


def test_once_the_time_is_over_no_part_is_begun(store: Store, fake: Any) -> None:
    (result,) = run(store, fake.part(fake.hangs), minutes=0.01)
    assert (result.outcome, result.why) == ("cut", "not begun: the 0.01 minutes were over")
    assert not store.path("hangs").exists()


def test_a_folder_with_another_machines_results_is_refused(store: Store, fake: Any) -> None:
    run(store, fake.part(fake.ends))
    with pytest.raises(SpecError, match=f"--out: .* holds results of {KIND}, and this machine is nvidia-h200"):
        Store(store.folder.parent, "nvidia-h200", "NVIDIA H200")


@pytest.mark.parametrize(("name", "code"), [("ends", DONE), ("lacks", DONE), ("misses", FAILED), ("fails", FAILED)])
def test_the_exit_code_tells_whether_all_is_right(
    tmp_path: Path, fake: Any, capsys: pytest.CaptureFixture[str], name: str, code: int
) -> None:
    options = GpuOptions(out=tmp_path)
    assert runner.main(options, [fake.part(getattr(fake, name))]) == code
    assert capsys.readouterr().out.startswith("## deeper bench gpu on ")


def test_what_was_not_begun_is_left_for_the_same_command_again(tmp_path: Path, fake: Any) -> None:
    assert runner.main(GpuOptions(out=tmp_path, minutes=0.01), [fake.part(fake.ends)]) == INTERRUPTED


def test_a_part_of_no_such_name_is_told_with_those_there_are(tmp_path: Path, fake: Any) -> None:
    with pytest.raises(SpecError, match="--part: 'ned' is none of ends, fails"):
        runner.main(GpuOptions(out=tmp_path, parts=("ned",)), [fake.part(fake.ends), fake.part(fake.fails)])


INTERRUPTED_SCRIPT = """
import sys
from pathlib import Path
sys.path.insert(0, {here!r})
import fake_parts
from bench.suites.gpu.runner import GpuOptions, main
if __name__ == "__main__":
    sys.exit(main(GpuOptions(out=Path({out!r})), [fake_parts.part(fake_parts.hangs, seconds=100.0)]))
"""


def test_ctrl_c_prints_the_table_of_what_there_is(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(INTERRUPTED_SCRIPT.format(here=str(HERE), out=str(tmp_path)), encoding="utf-8")
    process = subprocess.Popen(
        [sys.executable, str(script)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, encoding="utf-8"
    )
    while not (tmp_path / "gpu" / "hangs.json").exists():
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    printed, told = process.communicate(timeout=60)
    assert process.returncode == INTERRUPTED, told
    assert "**hangs: figures**" in printed
    assert "interrupted by hand" in printed
    assert "Traceback" not in told
