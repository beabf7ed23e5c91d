"""What goes into a bundle, what install.sh refuses, and a whole bundle that is installed without a network."""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from packaging.requirements import Requirement
from torch import nn

from bench.machine import revision
from reproduce.native import DECODER, KERNELS, LIBRARIES, c_kernels, cpu, kernels, levels, precompiled
from reproduce.native.cpu import CpuInfo
from slurm.bundle import __main__ as builder
from slurm.bundle import machine, packing, selection, wheels
from slurm.bundle.selection import BundleError, Pin

ROOT = Path(__file__).parents[2]
OWN = f"{sys.version_info.major}.{sys.version_info.minor}"
Install = Callable[..., subprocess.CompletedProcess[str]]


# --- what goes into a bundle -------------------------------------------------------------------------

GRAPH = {
    "torch": ["numpy", "triton; sys_platform == 'linux'", "optree; extra == 'tree'"],
    "torchvision": ["torch==2.0", "pillow"],
    "ray": ["click", "pillow"],
    "triton": ["cuda-parts"],
}
NAMES = ("torch", "torchvision", "ray", "numpy", "triton", "cuda-parts", "pillow", "click")
LOCK = {name: Pin(name, "2.0", f"{name}==2.0") for name in NAMES}
WANTED = [Requirement(name) for name in ("torch", "torchvision", "ray", "numpy")]
LINUX = selection.target_environment("3.12")


def chosen(*without: str) -> tuple[set[str], set[str]]:
    kept, left_out = selection.select(LOCK, WANTED, LINUX, without, lambda name: GRAPH.get(name, []))
    return set(kept), set(left_out)


def test_requirements_of_an_excluded_package_alone_are_excluded_too() -> None:
    kept, left_out = chosen("torch", "torchvision")
    assert left_out == {"torch", "torchvision", "triton", "cuda-parts"}
    assert kept == {"ray", "numpy", "pillow", "click"}


def test_without_exclusions_the_whole_lock_is_selected() -> None:
    assert chosen() == (set(LOCK), set())


def test_an_unknown_exclusion_is_answered_with_the_requirements() -> None:
    with pytest.raises(BundleError, match="WITHOUT=tensorflow: the suite has no such requirement; it requires numpy, "):
        chosen("tensorflow")


def test_a_package_that_pins_an_excluded_one_must_be_excluded_too() -> None:
    with pytest.raises(BundleError, match=r"torchvision needs exactly torch==2\.0.*WITHOUT=torch,torchvision"):
        chosen("torch")


def test_the_lock_has_versions_for_each_python() -> None:
    locks = [
        selection.read_lock(ROOT / "requirements.txt", selection.target_environment(python))
        for python in ("3.11", "3.13")
    ]
    assert locks[0]["numpy"].version != locks[1]["numpy"].version
    assert all("--hash=sha256:" in pin.line and ";" not in pin.line for lock in locks for pin in lock.values())
    assert "pywin32" not in locks[0]


def test_the_installed_metadata_reaches_the_whole_lock() -> None:
    here = selection.target_environment(OWN)
    lock = selection.read_lock(ROOT / "requirements.txt", here)
    reached = selection.reachable(selection.roots(ROOT / "pyproject.toml"), here)
    assert set(lock) == reached
    kept, left_out = selection.select(lock, selection.roots(ROOT / "pyproject.toml"), here, ("torch", "torchvision"))
    assert {"ffcv", "ray", "mlflow", "numpy", "setuptools"} <= set(kept)
    assert {"triton", "nvidia-cublas"} <= set(left_out)


def test_the_headless_opencv_has_the_version_of_the_lock() -> None:
    here = selection.target_environment(OWN)
    lock = selection.read_lock(ROOT / "requirements.txt", here)
    carried = selection.read_lock(wheels.HERE / "carried.txt", here)
    assert carried[builder.HEADLESS].version == lock[builder.OPENCV].version


def test_the_required_glibc_is_that_of_the_most_demanding_wheel() -> None:
    names = (
        "a-1-py3-none-any.whl",
        "b-1-cp311-cp311-manylinux_2_17_x86_64.manylinux2014_x86_64.whl",
        "c-1-cp311-abi3-manylinux_2_35_x86_64.whl",
        "d-1-cp311-cp311-manylinux_2_28_x86_64.manylinux2010_x86_64.whl",
    )
    assert wheels.required_glibc(map(Path, names)) == 35
    assert wheels.required_glibc(map(Path, names[3:])) == 12


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--part", "60"], "PART=60: not a size of at least 1M; write for example 60M or 2G"),
        (["--part", "10K"], "PART=10K: not a size of at least 1M"),
        (["--python", "3.9"], "PYTHON=3.9: not a version of CPython from 3.11 on"),
        (["--without", "jax"], "WITHOUT=jax: the suite has no such requirement"),
    ],
)
def test_an_invalid_option_is_refused_before_anything_is_written(
    options: Sequence[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert builder.main([*options, "--out", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err.startswith(f"bundle: {words}")
    assert not (tmp_path / "out").exists()


# --- parts -------------------------------------------------------------------------------------------


def packed(folder: Path, **values: object) -> Path:
    """A bundle with nothing in it but some bytes, for this machine unless `values` say otherwise."""
    content = folder / "content"
    content.mkdir()
    (content / "some").write_bytes(os.urandom(30_000))
    packing.pack(content, folder / "bundle", "deeper-1", 10_000, {"python": OWN, "glibc": 17, "machine": "", **values})
    return folder / "bundle"


def test_the_parts_form_one_tar_and_match_their_checksums(tmp_path: Path) -> None:
    bundle = packed(tmp_path)
    parts = sorted(bundle.glob("deeper-1.part-*"))
    assert [part.stat().st_size for part in parts[:-1]] == [10_000] * (len(parts) - 1)
    subprocess.run(["sha256sum", "--check", "--strict", "--quiet", packing.SUMS], cwd=bundle, check=True)
    (tmp_path / "all.tar").write_bytes(b"".join(part.read_bytes() for part in parts))
    with tarfile.open(tmp_path / "all.tar") as archive:
        assert archive.getnames() == ["some"]


# --- install.sh --------------------------------------------------------------------------------------


@pytest.fixture
def install(tmp_path: Path) -> Install:
    """Runs a bundle's install.sh in an empty folder; programs put into `bin` come first."""
    place = tmp_path / "a place"
    place.mkdir()

    def run(bundle: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
        return subprocess.run(
            ["sh", str(bundle / "install.sh"), *arguments],
            cwd=place,
            env={**os.environ, "PATH": path, "PYTHON": sys.executable, **variables},
            capture_output=True,
            text=True,
            encoding="utf-8",
        )

    return run


def program(folder: Path, name: str, script: str) -> None:
    (folder / "bin").mkdir(exist_ok=True)
    (folder / "bin" / name).write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    (folder / "bin" / name).chmod(0o755)


def refused(done: subprocess.CompletedProcess[str], *words: str) -> None:
    assert done.returncode == 1, done.stdout
    lines = done.stderr.splitlines()
    assert all(line.startswith("install.sh: ") for line in lines)
    for word in words:
        assert word in done.stderr


def test_shellcheck_accepts_the_install_script() -> None:
    if not shutil.which("shellcheck"):
        pytest.skip("no shellcheck on PATH; `make setup-tests` as root on Debian installs it")
    subprocess.run(["shellcheck", str(packing.INSTALL)], check=True)


@pytest.mark.parametrize(("libc", "told"), [("echo glibc 2.28", "glibc 2.28"), ("exit 1", "no glibc")])
def test_an_older_glibc_is_refused(libc: str, told: str, tmp_path: Path, install: Install) -> None:
    program(tmp_path, "getconf", libc)
    refused(install(packed(tmp_path, glibc=35)), f"needs glibc 2.35 or newer; this machine has {told}.")


def test_another_architecture_is_refused(tmp_path: Path, install: Install) -> None:
    program(tmp_path, "uname", "echo Linux aarch64")
    refused(install(packed(tmp_path)), "is for Linux x86_64; this machine is Linux aarch64")


def test_another_python_is_refused(tmp_path: Path, install: Install) -> None:
    refused(
        install(packed(tmp_path, python="3.99")),
        f"is for CPython 3.99; {sys.executable} is CPython {OWN}.",
        "PYTHON=/path/to/python3.99 sh install.sh",
    )
    refused(install(tmp_path / "bundle", PYTHON="/no/python"), "PYTHON=/no/python does not run as a Python interpreter")


def test_missing_and_damaged_parts_are_named(tmp_path: Path, install: Install) -> None:
    bundle = packed(tmp_path)
    parts = sorted(bundle.glob("*.part-*"))
    parts[0].unlink()
    parts[1].write_bytes(parts[1].read_bytes()[:-1] + b"\0")
    done = install(bundle)
    refused(done, f"of {len(parts)} parts, these are missing", "copy them again: deeper-1.part-001")
    assert not (tmp_path / "a place" / "deeper").exists()


def test_checksums_of_another_bundle_are_refused(tmp_path: Path, install: Install) -> None:
    bundle = packed(tmp_path)
    (bundle / packing.SUMS).write_text("00  deeper-0.part-000\n", encoding="utf-8")
    refused(install(bundle), "belongs to another bundle; this install.sh belongs to deeper-1.")
    (bundle / packing.SUMS).unlink()
    refused(install(bundle), "copy all files of the bundle into one folder")


def test_a_full_disk_is_refused(tmp_path: Path, install: Install) -> None:
    program(tmp_path, "df", "echo header; echo disk 9 9 2048 9% /")
    bundle = packed(tmp_path)
    (bundle / "install.sh").write_text(
        (bundle / "install.sh").read_text(encoding="utf-8").replace("needed_mib='1'", "needed_mib='7'"),
        encoding="utf-8",
    )
    refused(install(bundle), "2 MiB are free in", "the installation takes 7 MiB.")


def test_a_folder_with_other_files_is_refused(tmp_path: Path, install: Install) -> None:
    (tmp_path / "a place" / "deeper").mkdir()
    (tmp_path / "a place" / "deeper" / "thesis.tex").touch()
    refused(install(packed(tmp_path)), "holds other files; name an empty or a new folder")


def test_packages_that_the_machine_lacks_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    needed = tmp_path / "machine.json"
    needed.write_text(json.dumps({"torch": "99.1", "no-such-package": "1", "mlflow": ""}), encoding="utf-8")
    monkeypatch.setattr(sys, "argv", ["machine.py", str(needed)])
    assert machine.main() == 1
    torch, absent = capsys.readouterr().err.splitlines()
    assert torch.endswith("is too old; the bundle needs torch 99.1 or newer.")
    assert absent.startswith("no-such-package is not installed")
    needed.write_text(json.dumps({"packaging": "0"}), encoding="utf-8")
    assert machine.main() == 0


def test_a_vendor_build_counts_as_the_version_in_its_name() -> None:
    assert machine._release("2.11.0a0+gb65b36914.nv26.02") >= machine._release("2.11")
    assert machine._release("2.9.1+cu128") < machine._release("2.11")


# --- what the bundle's wheel of the suite has besides ------------------------------------------------


def test_the_commit_is_recorded_without_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundled = tmp_path / "commit.json"
    monkeypatch.setattr(revision, "ROOT", tmp_path)
    monkeypatch.setattr(revision, "BUNDLED", bundled)
    monkeypatch.setenv("PATH", "")
    assert revision.revision() == {}
    bundled.write_text(json.dumps({"commit": "abc", "dirty": False}), encoding="utf-8")
    assert revision.revision() == {"commit": "abc", "dirty": False}


@pytest.fixture(scope="module")
def libraries(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("libraries")
    for library in LIBRARIES:
        library.precompile(folder)
    return folder


def test_a_precompiled_library_of_the_same_sources_is_used(libraries: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precompiled, "FOLDER", libraries)
    for level, flags in levels.LEVELS.items():
        monkeypatch.setattr(cpu, "this_cpu", lambda flags=flags: CpuInfo(flags=tuple(flags)))
        found = precompiled.find(DECODER.name, DECODER.digest())
        assert found is not None
        assert found.name.endswith(f"{level}.so")
        assert precompiled.level_of(found) == level
    assert precompiled.find(DECODER.name, "another digest") is None
    monkeypatch.setattr(cpu, "this_cpu", CpuInfo)
    assert precompiled.find(DECODER.name, DECODER.digest()) is None


@pytest.mark.parametrize("dtype", c_kernels.TYPES, ids=str)
def test_all_levels_compute_the_same_numbers(
    libraries: Path, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the kernels, whose sums an optimiser could order otherwise; the decoder computes with integers."""
    able = levels.supported()
    results = []
    for level in able:
        path = libraries / precompiled.file_name(KERNELS.name, KERNELS.digest(), level)
        library = c_kernels.declared(ctypes.CDLL(str(path)))
        monkeypatch.setattr(c_kernels, "_library", lambda library=library: library)
        torch.manual_seed(0)
        x = torch.randn(4, 100, 9, 9).to(dtype, memory_format=torch.channels_last).requires_grad_()
        norm = nn.BatchNorm2d(100)
        y = kernels.norm_relu(norm, kernels.MaxPool(3, stride=1, padding=1)(x))
        y.backward(torch.randn_like(y))
        assert x.grad is not None
        results.append([y, x.grad, norm.weight.grad, norm.bias.grad, norm.running_mean, norm.running_var])
    for result in results[1:]:
        assert all(map(torch.equal, results[0], result))


# --- a whole bundle ----------------------------------------------------------------------------------


@pytest.mark.long
def test_a_bundle_installs_and_trains_without_network_root_or_compiler(tmp_path: Path) -> None:
    if os.geteuid() != 0 or not shutil.which("debootstrap"):
        pytest.skip("a system without anything needs root and debootstrap; on Debian: apt-get install debootstrap")
    root = tmp_path / "root"
    release = subprocess.check_output(
        ["sh", "-c", ". /etc/os-release; echo $VERSION_CODENAME"], text=True, encoding="utf-8"
    ).strip()
    made = subprocess.run(["debootstrap", "--variant=minbase", "--include=python3", release, str(root)])
    if made.returncode != 0:
        pytest.skip(f"debootstrap cannot make a {release} here")
    version = "import sys; print('%d.%d' % sys.version_info[:2])"
    python = subprocess.check_output(
        ["chroot", str(root), "python3", "-c", version], text=True, encoding="utf-8"
    ).strip()
    home = root / "home" / "user"
    home.mkdir()
    builder.make(python, (), builder.part_bytes("200M"), tmp_path / "out").rename(home / "bundle")
    (root / "etc" / "hosts").write_text("127.0.0.1 localhost node\n", encoding="utf-8")
    subprocess.run(["chown", "-R", "1000:1000", str(home)], check=True)
    script = """
        set -e
        sh bundle/install.sh "a folder"
        cd "a folder"
        .venv/bin/deeper doctor
        .venv/bin/deeper run quickstart --arm reduced-none --seed 0
        .venv/bin/deeper report quickstart
    """
    enter = """
        ip link set lo up
        hostname node
        mount -t proc proc "$1/proc"
        mount --bind /dev "$1/dev"
        mount -t tmpfs -o mode=1777 tmpfs "$1/dev/shm"
        exec chroot --userspec=1000:1000 "$1" env -i HOME=/home/user PATH=/usr/bin:/bin sh -c "cd; $2"
    """
    done = subprocess.run(
        ["unshare", "--net", "--uts", "--mount", "--pid", "--fork", "sh", "-e", "-c", enter, "sh", str(root), script],
        capture_output=True,
        text=True,
        encoding="utf-8",
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "precompiled" in done.stdout
    (events,) = (home / "a folder" / "records" / "runs").glob("*/events.jsonl")
    start = json.loads(events.read_text(encoding="utf-8").splitlines()[0])
    assert start["environment"]["commit"] == revision.revision()["commit"]
