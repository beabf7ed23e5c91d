"""Libraries in C: how they are built, kept, selected, and done without."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from reproduce.files.private_folders import UnsafeFolderError
from reproduce.native import DECODER, KERNELS, LIBRARIES, ImplementationError, Library
from reproduce.native.caching import is_trusted, library_folder
from reproduce.native.compiling import FLAGS

SHOW = "from reproduce.native import LIBRARIES; [print(library.implementation()) for library in LIBRARIES]"


def start(code: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
    )


def output(process: subprocess.Popen[str]) -> list[str]:
    return process.communicate()[0].splitlines()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The suite's folder in an empty cache of the user."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "deeper"


@pytest.mark.parametrize(
    "source",
    # layers.h is a part of kernels.c, which includes it for each type of map.
    [path for library in LIBRARIES for path in library.sources if path.name != "layers.h"],
    ids=lambda path: path.name,
)
def test_the_sources_compile_without_warnings(source: Path, tmp_path: Path) -> None:
    compiler = shlex.split(os.environ.get("CC", "cc"))
    strict = ("-Wall", "-Wextra", "-Wpedantic", "-Wshadow", "-Werror", "-fopenmp", *FLAGS)
    strict += ("-Wno-psabi",)  # how vectors are passed between functions, all of which are inlined
    language = ("-x", "c") if source.suffix == ".h" else ()
    done = subprocess.run(
        [*compiler, *strict, *language, "-c", str(source), "-o", str(tmp_path / "object.o")],
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
    )
    assert done.returncode == 0, done.stderr


def test_two_processes_build_at_once_and_the_next_builds_nothing(cache: Path) -> None:
    for process in [start(SHOW) for _ in range(2)]:
        decoder, kernels = output(process)
        assert decoder.startswith("native (libjpeg-turbo")
        assert kernels.startswith(("native (gcc", "native (clang"))
    built = {file: file.stat().st_mtime_ns for file in (cache / "libraries").iterdir()}
    assert len(built) == 2
    assert [line.split()[0] for line in output(start(SHOW))] == ["native", "native"]
    assert {file: file.stat().st_mtime_ns for file in (cache / "libraries").iterdir()} == built


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    lines = output(start(SHOW, XDG_CACHE_HOME=str(tmp_path / "file")))
    assert [line.split()[0] for line in lines] == ["native", "native"]


def test_only_this_user_can_write_the_folder_of_libraries(cache: Path) -> None:
    (cache / "libraries").mkdir(parents=True)
    for folder in (cache, cache / "libraries"):
        folder.chmod(0o777)
    assert library_folder() == cache / "libraries"
    assert [folder.stat().st_mode & 0o777 for folder in (cache, cache / "libraries")] == [0o700, 0o700]


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to give a folder to another user")
@pytest.mark.parametrize("planted", ["folder", "symbolic link"])
@pytest.mark.parametrize("name", ["deeper", "deeper/libraries"])
def test_a_folder_or_link_of_another_user_is_refused(cache: Path, tmp_path: Path, name: str, planted: str) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    if planted == "folder":
        path.mkdir()
    else:
        path.symlink_to(tmp_path, target_is_directory=True)
    os.chown(path, 65534, 65534, follow_symlinks=False)
    with pytest.raises(UnsafeFolderError, match=r"belongs to the user with id 65534|is a symbolic link"):
        library_folder()
    lines = output(start(SHOW))
    assert "compiled libraries are not kept" in lines[0]
    assert [line.split()[0] for line in lines if "libjpeg" in line or "gcc" in line] == ["native", "native"]


def test_a_library_that_others_can_write_or_that_is_a_link_is_not_trusted(tmp_path: Path) -> None:
    library = tmp_path / "library.so"
    assert not is_trusted(library)
    library.touch(mode=0o600)
    assert is_trusted(library)
    link = tmp_path / "link.so"
    link.symlink_to(library)
    assert not is_trusted(link)
    library.chmod(0o666)
    assert not is_trusted(library)


def test_without_a_compiler_the_fallback_of_the_kernels_says_why_and_that_of_the_decoder_has_to_be_asked_for() -> None:
    assert output(start(SHOW, CC="no-such-compiler", DEEPER_DECODER="stock")) == [
        "stock (DEEPER_DECODER=stock)",
        "torch (no C compiler: no-such-compiler: No such file or directory)",
    ]
    refused = output(start(SHOW, CC="no-such-compiler"))[-1]
    assert "ImplementationError: decoder: no C compiler: no-such-compiler" in refused
    assert DECODER.hint in refused
    assert refused.endswith("or set DEEPER_DECODER=stock, which decodes with FFCV's own decoder to other pixels")
    forced = output(start(SHOW, CC="no-such-compiler", DEEPER_DECODER="stock", DEEPER_KERNELS="native"))[-1]
    assert "ImplementationError: DEEPER_KERNELS=native: no C compiler: no-such-compiler" in forced
    assert KERNELS.hint in forced


@pytest.mark.parametrize("library", LIBRARIES, ids=lambda library: library.role)
def test_a_fallback_is_used_when_asked_for(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(library.variable, library.fallback)
    assert not library.implementation().native
    assert library.implementation().hint == ""


def test_an_implementation_that_does_not_exist_is_refused_by_every_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(DECODER.variable, "fast")
    with pytest.raises(ImplementationError, match="DEEPER_DECODER=fast: unknown; valid: native, stock, or unset"):
        DECODER.implementation()
    done = subprocess.run(
        [sys.executable, "-m", "bench.cli", "plan", "quickstart"], capture_output=True, text=True, encoding="utf-8"
    )
    assert done.returncode == 2
    assert done.stderr.strip() == "deeper: DEEPER_DECODER=fast: unknown; valid: native, stock, or unset"


def test_a_damaged_library_in_the_cache_is_built_again(cache: Path) -> None:
    output(start(SHOW))
    library = next((cache / "libraries").glob("crop-*.so"))
    whole = library.read_bytes()
    for damaged in (whole[: len(whole) // 2], b"", whole.replace(b"libjpeg-turbo", b"libjpeg-turbp", 1)):
        library.write_bytes(damaged)
        assert output(start(SHOW))[0].startswith("native (libjpeg-turbo")
        assert library.read_bytes() != damaged
