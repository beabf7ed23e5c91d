"""C sources: how they are built, kept, chosen and done without."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from reproduce.native import DECODER, KERNELS, SOURCES, ChoiceError, Source

CHOICES = "from reproduce.native import SOURCES; [print(source.choice()) for source in SOURCES]"


def in_a_process(code: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
    )


def told(process: subprocess.Popen[str]) -> list[str]:
    return process.communicate()[0].splitlines()


def test_two_processes_build_at_once_and_the_next_builds_nothing(tmp_path: Path) -> None:
    cache = {"XDG_CACHE_HOME": str(tmp_path)}
    for process in [in_a_process(CHOICES, **cache) for _ in range(2)]:
        decoder, kernels = told(process)
        assert decoder.startswith("native (libjpeg-turbo")
        assert kernels.startswith(("native (gcc", "native (clang"))
    built = {file: file.stat().st_mtime_ns for file in (tmp_path / "deeper").iterdir()}
    assert len(built) == 2
    assert [line.split()[0] for line in told(in_a_process(CHOICES, **cache))] == ["native", "native"]
    assert {file: file.stat().st_mtime_ns for file in (tmp_path / "deeper").iterdir()} == built


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    lines = told(in_a_process(CHOICES, XDG_CACHE_HOME=str(tmp_path / "file")))
    assert [line.split()[0] for line in lines] == ["native", "native"]


def test_without_a_compiler_the_stand_ins_say_why() -> None:
    assert told(in_a_process(CHOICES, CC="no-such-compiler")) == [
        "stock (no C compiler: no-such-compiler: No such file or directory)",
        "torch (no C compiler: no-such-compiler: No such file or directory)",
    ]
    forced = told(in_a_process(CHOICES, CC="no-such-compiler", DEEPER_KERNELS="native"))[-1]
    assert "ChoiceError: DEEPER_KERNELS=native: no C compiler: no-such-compiler" in forced
    assert KERNELS.cure in forced


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.what)
def test_a_stand_in_is_taken_when_asked_for(source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(source.variable, source.stand_in)
    assert not source.choice().native
    assert source.choice().cure == ""


def test_a_choice_that_does_not_exist_is_refused_by_every_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(DECODER.variable, "fast")
    with pytest.raises(ChoiceError, match="DEEPER_DECODER=fast: unknown; valid: native, stock, or unset"):
        DECODER.choice()
    done = subprocess.run(
        [sys.executable, "-m", "bench.cli", "plan", "quickstart"], capture_output=True, text=True, encoding="utf-8"
    )
    assert done.returncode == 2
    assert done.stderr.strip() == "deeper: DEEPER_DECODER=fast: unknown; valid: native, stock, or unset"
