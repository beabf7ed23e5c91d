"""Makes a bundle, a folder that installs this project on a machine without a network and without root.

`make bundle` first sets up the environment that this command needs.
"""

from __future__ import annotations

import argparse
import json
import platform
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Final

from packaging.utils import canonicalize_name

from slurm.bundle import machine, packing, selection, wheels
from slurm.bundle.selection import BundleError, Pin

MIB = 2**20
UNITS = {"K": 2**10, "M": MIB, "G": 2**30}
SMALLEST_PART = MIB
OPENCV, HEADLESS = "opencv-python", "opencv-python-headless"  # the same without the need for X11
DATA_PRESET: Final = 1  # of xz: takes a tenth of the time of its default and a few MiB more


def main(arguments: Sequence[str] | None = None) -> int:
    """Make the bundle that the command line describes.

    Args:
        arguments: The command line; by default that of this process.

    Returns:
        The exit code: 0, or 2 if such a bundle cannot be made, after a message on standard error.
    """
    own = _own_python()
    parser = argparse.ArgumentParser(prog="python -m slurm.bundle", description=__doc__)
    parser.add_argument("--python", default=own, help=f"CPython of the target machine, e.g. 3.12 (default: {own})")
    parser.add_argument("--without", default="", help="requirements that the machine has, e.g. torch,torchvision")
    parser.add_argument("--part", default="2G", help="largest size of a part, e.g. 60M (default: 2G)")
    parser.add_argument(
        "--out", type=Path, default=wheels.ROOT / "build" / "bundle", help="output folder (default: build/bundle)"
    )
    options = parser.parse_args(arguments)
    try:
        without = tuple(canonicalize_name(name) for name in options.without.split(",") if name)
        make(_python(options.python), without, part_bytes(options.part), options.out)
    except BundleError as error:
        print(f"bundle: {error}", file=sys.stderr)
        return 2
    return 0


def make(python: str, without: Sequence[str], part: int, out: Path) -> Path:
    """Make a bundle. This needs a network and prints its progress to standard output.

    Args:
        python: Version of CPython on the target machine, e.g. 3.12.
        without: Names of requirements that the target machine already has. They are left out, and so are the
            requirements that only they need.
        part: Largest size of a part in bytes.
        out: Folder in which the bundle's folder and the intermediate files are created. An earlier bundle of the same
            name is replaced.

    Returns:
        The folder of the bundle.

    Raises:
        BundleError: This machine is not x86_64, `without` is invalid, or a program that fetches or builds fails.
    """
    if platform.machine() != "x86_64":
        raise BundleError(f"bundles are made on and for x86_64; this is {platform.machine()}")
    environment = selection.target_environment(python)
    lock = selection.read_lock(wheels.ROOT / "requirements.txt", environment)
    wanted = selection.roots(wheels.ROOT / "pyproject.toml")
    kept, left_out = selection.select(lock, wanted, environment, without)
    carried = selection.read_lock(wheels.HERE / "carried.txt", environment)
    fetched = [carried[HEADLESS] if pin.name == OPENCV else pin for pin in kept.values()]
    out.mkdir(parents=True, exist_ok=True)
    content = out / "content"
    shutil.rmtree(content, ignore_errors=True)
    content.mkdir()
    using = wheels.tools(out / "tools", out / "build.log")

    _say(f"Fetching {len(kept)} distributions for Python {python}" + _less(without, left_out))
    commit = _add_wheels(content, fetched, python, using)
    wheels.fetch([carried["pip"]], python, content, using)
    _say("Preparing the quickstart's data")
    _add_data(content, out / "data")
    _add_machine_check(content, without)

    name = _name(python, without, commit)
    glibc = wheels.required_glibc((content / "wheels").iterdir())
    values = {"python": python, "glibc": glibc, "machine": " ".join(without)}
    files = packing.pack(content, out / name, name, part, values)
    shutil.rmtree(content)
    _say(
        f"{out / name}: {len(files)} files, {sum(path.stat().st_size for path in files) / MIB:,.0f} MiB, for CPython "
        f"{python} on x86_64 with glibc 2.{glibc} or newer."
    )
    if python != _own_python():
        _say(f"It was made for Python {python}, which is not this machine's, so nothing in it has been run here.")
    _say("Copy the folder to the machine and type there: sh install.sh")
    return out / name


def part_bytes(text: str) -> int:
    """Convert a size such as 60M or 2G to bytes.

    Args:
        text: A whole number with the unit K, M or G, in powers of 1024; it may be followed by B or iB.

    Raises:
        BundleError: The text is not such a size, or the size is less than 1M.
    """
    match = re.fullmatch(r"(\d+)([KMG])(?:i?B)?", text)
    size = int(match[1]) * UNITS[match[2]] if match else 0
    if size < SMALLEST_PART:
        raise BundleError(f"PART={text}: not a size of at least 1M; write for example 60M or 2G")
    return size


def _python(text: str) -> str:
    oldest = wheels.STABLE_SINCE
    match = re.fullmatch(r"3\.(\d+)", text)
    if not match or int(match[1]) < int(oldest.split(".")[1]):
        raise BundleError(f"PYTHON={text}: not a version of CPython from {oldest} on; write for example {oldest}")
    return text


def _own_python() -> str:
    return f"{sys.version_info.major}.{sys.version_info.minor}"


def _name(python: str, without: Sequence[str], commit: dict[str, object]) -> str:
    version = re.search(
        r'^version = "(.+)"', (wheels.ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert version is not None
    state = f"{str(commit.get('commit', 'unknown'))[:7]}{'-dirty' if commit.get('dirty') else ''}"
    less = f"-without-{'-'.join(without)}" if without else ""
    return f"deeper-{version[1]}-{state}-cp{python.replace('.', '')}{less}"


def _add_wheels(content: Path, pins: Sequence[Pin], python: str, using: wheels.Tools) -> dict[str, object]:
    """Add the wheels of all requirements and of this project. Returns the commit, as `wheels.build_suite` does."""
    folder = content / "wheels"
    folder.mkdir()
    wheels.fetch(pins, python, folder, using)
    sources = sorted(path for path in folder.iterdir() if path.suffix != ".whl")
    _say(f"Building wheels of {', '.join(path.name for path in sources)} and of the suite")
    wheels.build(sources, folder, using)
    for source in sources:
        source.unlink()
    return wheels.build_suite(folder, using)


def _add_machine_check(content: Path, without: Sequence[str]) -> None:
    """Add the script that checks the target machine's own packages, and the list of those that it has to check."""
    shutil.copy(machine.__file__, content)
    needed = {name: machine.OLDEST_TRIED.get(name, "") for name in without}
    (content / "machine.json").write_text(json.dumps(needed), encoding="utf-8")


def _add_data(content: Path, data: Path) -> None:
    """Add Fashion-MNIST as FFCV files, so that `deeper run quickstart` works at once."""
    folder = data / "fashion-mnist"
    command = [sys.executable, "-m", "bench.cli", "data", "prepare", "fashion-mnist", "--out", str(folder)]
    done = subprocess.run(command, cwd=wheels.ROOT, capture_output=True, text=True, encoding="utf-8")
    if done.returncode != 0:
        raise BundleError(f"the quickstart's data cannot be prepared: {done.stderr.strip()}")
    with tarfile.open(content / "data.tar.xz", mode="w:xz", preset=DATA_PRESET) as archive:
        archive.add(folder, folder.name, filter=packing.anonymous)


def _less(without: Sequence[str], left_out: Collection[str]) -> str:
    """Describe in words the requirements that the bundle leaves out."""
    if not without:
        return ""
    more = len(left_out) - len(without)
    return f", without {', '.join(without)}" + (f" and {more} that only these need" if more else "")


def _say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
