"""C sources of ours: compiled at a machine's first use, with its own compiler, and kept for the next process.

Where a library compiled beforehand belongs to these sources and this CPU (`reproduce.native.precompiled`), it is taken.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import os
import platform
import shlex
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from reproduce.errors import UserError
from reproduce.native import precompiled

# Without contraction of a * b + c: the same numbers on every machine, and those of numba's and numpy's code.
FLAGS = ("-O3", "-std=gnu11", "-ffp-contract=off", "-fPIC", "-pthread")


class UnavailableError(Exception):
    """A source cannot be compiled or loaded here; the message says why in one line."""


class ChoiceError(UserError):
    """The environment asks for what is not there; the message names the variable, its value and what is valid."""


@dataclass(frozen=True)
class Choice:
    """What does a piece of work in this process: the C source or its stand-in."""

    name: str
    """native, or the stand-in's."""
    detail: str
    """What the native one is built with, or why it is not used."""
    cure: str = ""
    """What makes the native one available; empty where nothing is amiss."""

    @property
    def native(self) -> bool:
        return self.name == "native"

    def __str__(self) -> str:
        return f"{self.name} ({self.detail})"


@dataclass(frozen=True, kw_only=True)
class Source:
    """C sources of one library, and what does their work where it cannot be had or the environment asks for that."""

    paths: tuple[Path, ...]
    """The first gives it its name; headers are among them."""
    what: str
    """In a word, for people."""
    stand_in: str
    variable: str
    """Environment variable: native or the stand-in's name takes that one; unset: native where it can be built."""
    cure: str
    """What to install where it cannot be built."""
    libraries: tuple[str, ...] = ()
    openmp: bool = False
    """Parallel by the OpenMP runtime that the process has loaded already (torch's), not by one more of its own."""

    def asked(self) -> str:
        """What the environment asks for, maybe nothing; raises `ChoiceError` if that is neither of the two."""
        asked = os.environ.get(self.variable, "")
        if asked not in ("", "native", self.stand_in):
            raise ChoiceError(f"{self.variable}={asked}: unknown; valid: native, {self.stand_in}, or unset")
        return asked

    def choice(self) -> Choice:
        """Which of the two this process uses; builds the native one if need be.

        Raises `ChoiceError` if the variable names neither, or the native one where it cannot be built.
        """
        return _choose(self, self.asked())

    def library(self) -> ctypes.CDLL:
        """The loaded library; raises `UnavailableError`."""
        found = _load_once(self)
        if isinstance(found, str):
            raise UnavailableError(found)
        return found

    def load(self) -> ctypes.CDLL:
        """The precompiled library, that from the cache, or one built now (2 s); raises `UnavailableError`.

        The cache is $XDG_CACHE_HOME/deeper (~/.cache/deeper), a file for each source, compiler, flags and CPU.
        Processes that build at once each put a whole file in place. Where it cannot be written, each builds its own.
        """
        if self.openmp:
            import torch  # noqa: F401  (brings the OpenMP runtime)
        ready = precompiled.find(self.name, self.digest())
        if ready is not None:
            return _open(ready)
        target = cache() / f"{self.name}-{self._key()}.so"
        if target.is_file():
            return _open(target)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            place = tempfile.TemporaryDirectory(dir=target.parent)
        except OSError:
            place = tempfile.TemporaryDirectory()
        with place as folder:
            built = Path(folder) / target.name
            self._build(built, "native")
            library = _open(built)
            with contextlib.suppress(OSError):
                built.replace(target)
        return library

    def precompile(self, folder: Path) -> None:
        """Build the libraries that `precompiled` looks for, one a level; raises `UnavailableError`."""
        for level in precompiled.LEVELS:
            self._build(folder / precompiled.file_name(self.name, self.digest(), level), level)

    @property
    def name(self) -> str:
        return self.paths[0].stem

    def digest(self) -> str:
        """Of the sources and what else, besides compiler and CPU, determines the library."""
        parts = [*(path.read_text(encoding="utf-8") for path in self.paths), *FLAGS, *self.libraries]
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]

    def _build(self, built: Path, march: str) -> None:
        sources = [path for path in self.paths if path.suffix == ".c"]
        with tempfile.TemporaryDirectory(dir=built.parent) as folder:
            objects = [str(Path(folder) / f"{source.stem}.o") for source in sources]
            for source, compiled in zip(sources, objects, strict=True):
                _run([*_compiler(), *self._flags(march), "-c", str(source), "-o", compiled])
            # Linked without OpenMP's library: its symbols are looked up in the process.
            _run([*_compiler(), "-shared", "-pthread", *objects, "-o", str(built), *_prefixes(), *self.libraries])

    def _flags(self, march: str) -> list[str]:
        return [f"-march={march}", *FLAGS, *(["-fopenmp"] if self.openmp else []), *_prefixes()]

    def _key(self) -> str:
        compiler = _compiler()
        parts = [
            *(path.read_text(encoding="utf-8") for path in self.paths),
            *compiler, *self._flags("native"), *self.libraries, _compiler_version(compiler), _cpu(),
        ]  # fmt: skip
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def cache() -> Path:
    """Where compiled sources are kept."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "deeper"


@functools.cache
def _load_once(source: Source) -> ctypes.CDLL | str:
    """The library, or why there is none."""
    try:
        return source.load()
    except UnavailableError as error:
        return str(error)


@functools.cache  # a network asks at every layer
def _choose(source: Source, asked: str) -> Choice:
    if asked == source.stand_in:
        return Choice(source.stand_in, f"{source.variable}={source.stand_in}")
    found = _load_once(source)
    if isinstance(found, ctypes.CDLL):
        found.built_with.restype = ctypes.c_char_p
        return Choice("native", found.built_with().decode() + precompiled.told_of(Path(found._name)))
    if asked == "native":
        raise ChoiceError(f"{source.variable}=native: {found}; {source.cure}")
    return Choice(source.stand_in, found, source.cure)


def _compiler() -> list[str]:
    return shlex.split(os.environ.get("CC", "cc"))


def _compiler_version(compiler: list[str]) -> str:
    return _run([*compiler, "--version"]).partition("\n")[0]


def _cpu() -> str:
    """What -march=native depends on."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    told = [line for line in lines if line.startswith(("model name", "flags", "Features", "CPU part"))]
    return "\n".join([platform.machine(), *dict.fromkeys(told)])


def _prefixes() -> list[str]:
    """Options for libraries that lie in Python's own environment (conda)."""
    prefixes = dict.fromkeys((sys.prefix, sys.base_prefix, os.environ.get("CONDA_PREFIX", "")))
    found = (Path(prefix) for prefix in prefixes if prefix not in ("", "/usr"))
    return [
        option
        for prefix in found
        if (prefix / "include" / "jpeglib.h").is_file()
        for option in (f"-I{prefix}/include", f"-L{prefix}/lib", f"-Wl,-rpath,{prefix}/lib")
    ]


def _run(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8")
    except OSError as error:
        raise UnavailableError(f"no C compiler: {command[0]}: {error.strerror}") from None
    if done.returncode != 0:
        lines = done.stderr.splitlines() or [f"exit status {done.returncode}"]
        line = next((line for line in lines if "error" in line), lines[-1])
        raise UnavailableError(f"{command[0]} failed: {line.strip()}")
    return done.stdout


def _open(path: Path) -> ctypes.CDLL:
    try:
        return ctypes.CDLL(str(path))
    except OSError as error:
        raise UnavailableError(str(error)) from None
