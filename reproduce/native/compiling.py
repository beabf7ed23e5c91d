"""Libraries written in C: compiled by the machine's own compiler at their first use and kept for later processes.

A library that was compiled beforehand from the same sources for this CPU (`reproduce.native.precompiled`) is preferred.
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
import warnings
from dataclasses import dataclass
from pathlib import Path

from reproduce.errors import UserError
from reproduce.native import cpu, precompiled
from reproduce.native.caching import UnsafeFolderError, is_trusted, library_folder

# The compiler may not contract a * b + c, so that results do not depend on whether the CPU has such an instruction.
FLAGS = ("-O3", "-std=gnu11", "-ffp-contract=off", "-fPIC", "-pthread")


class UnavailableError(Exception):
    """A library cannot be compiled or loaded on this machine; the message says why in one line."""


class ImplementationError(UserError):
    """The environment asks for an implementation that does not exist or is unavailable on this machine.

    The message names the variable, its value and what is valid.
    """


@dataclass(frozen=True)
class Implementation:
    """What this process uses for a piece of work: the C library or its fallback."""

    name: str
    """`native`, or the name of the fallback."""
    detail: str
    """What the library was built with, or why it is not used."""
    hint: str = ""
    """How to make the library available; empty where the fallback was asked for or is not used."""

    @property
    def native(self) -> bool:
        return self.name == "native"

    def __str__(self) -> str:
        return f"{self.name} ({self.detail})"


@dataclass(frozen=True, kw_only=True)
class Library:
    """A shared library written in C, and the fallback for machines where it is unavailable.

    The environment variable `variable` selects one: `native`, or the fallback's name. If it is unset, the library is
    used wherever it can be built.
    """

    sources: tuple[Path, ...]
    """C files and headers; the first one gives the library its name."""
    role: str
    """One word for messages."""
    fallback: str
    variable: str
    hint: str
    """What to install where the library cannot be built."""
    links: tuple[str, ...] = ()
    """Linker options."""
    openmp: bool = False
    """Whether it uses OpenMP, whose runtime is the one that torch has loaded into the process."""

    @property
    def name(self) -> str:
        return self.sources[0].stem

    def requested(self) -> str:
        """The value of `variable`, empty if unset. Raises `ImplementationError` if it is not a valid one."""
        value = os.environ.get(self.variable, "")
        if value not in ("", "native", self.fallback):
            raise ImplementationError(f"{self.variable}={value}: unknown; valid: native, {self.fallback}, or unset")
        return value

    def implementation(self) -> Implementation:
        """What this process uses; builds the library if need be.

        Raises:
            ImplementationError: `variable` has no valid value, or asks for the library where it is unavailable.
        """
        return _implementation(self, self.requested())

    def load(self) -> ctypes.CDLL:
        """The loaded library, built first if need be. Raises `UnavailableError`."""
        loaded = _load_once(self)
        if isinstance(loaded, str):
            raise UnavailableError(loaded)
        return loaded

    def precompile(self, folder: Path) -> None:
        """Build the libraries that `precompiled.find` looks for, one for each level. Raises `UnavailableError`."""
        for level in precompiled.LEVELS:
            self.build(folder / precompiled.file_name(self.name, self.digest(), level), level)

    def build(self, target: Path, march: str) -> None:
        """Compile and link the sources for a value of -march. Raises `UnavailableError`."""
        compiler = _compiler()
        flags = [f"-march={march}", *FLAGS, *(["-fopenmp"] if self.openmp else []), *_search_paths()]
        with tempfile.TemporaryDirectory(dir=target.parent) as folder:
            objects = []
            for source in self.sources:
                if source.suffix == ".c":
                    objects.append(str(Path(folder, f"{source.stem}.o")))
                    _run([*compiler, *flags, "-c", str(source), "-o", objects[-1]])
            # OpenMP's runtime is not linked: its symbols are looked up in the process.
            _run([*compiler, "-shared", "-pthread", *objects, "-o", str(target), *_search_paths(), *self.links])

    def digest(self) -> str:
        """Hash of all that determines the library besides the compiler and the CPU."""
        return _hash(*(path.read_text(encoding="utf-8") for path in self.sources), *FLAGS, *self.links)

    def cache_key(self) -> str:
        """Hash of all that determines the library when it is compiled on this machine."""
        compiler = _compiler()
        version = _run([*compiler, "--version"]).partition("\n")[0]
        this_machine = (platform.machine(), repr(cpu.this_cpu()))
        return _hash(self.digest(), *compiler, version, *_search_paths(), str(self.openmp), *this_machine)


@functools.cache
def _load_once(library: Library) -> ctypes.CDLL | str:
    """The library, or why it is unavailable: asked for at every layer of a network, and found out once."""
    try:
        return _load(library)
    except UnavailableError as error:
        return str(error)


@functools.cache
def _implementation(library: Library, requested: str) -> Implementation:
    if requested == library.fallback:
        return Implementation(library.fallback, f"{library.variable}={library.fallback}")
    loaded = _load_once(library)
    if isinstance(loaded, ctypes.CDLL):
        loaded.built_with.argtypes, loaded.built_with.restype = (), ctypes.c_char_p
        level = precompiled.level_of(Path(loaded._name))
        return Implementation("native", loaded.built_with().decode() + (f", precompiled for {level}" if level else ""))
    if requested == "native":
        raise ImplementationError(f"{library.variable}=native: {loaded}; {library.hint}")
    return Implementation(library.fallback, loaded, library.hint)


def _load(library: Library) -> ctypes.CDLL:
    """Load the precompiled library, else the one in the cache, else build it, which takes about two seconds.

    The cache has one file for each version of the sources, compiler, flags and CPU. Processes that build at the same
    time each replace the whole file. A process that cannot use the cache builds a library of its own.
    """
    if library.openmp:
        import torch  # noqa: F401  (brings the OpenMP runtime)
    ready = precompiled.find(library.name, library.digest())
    if ready is not None:
        return _open(ready)
    cached = _cached(library)
    if cached is not None and is_trusted(cached):
        return _open(cached)
    with _temporary_folder(cached) as folder:
        built = Path(folder, f"{library.name}.so")
        library.build(built, "native")
        built.chmod(0o700)
        opened = _open(built)
        if cached is not None:
            with contextlib.suppress(OSError):
                built.replace(cached)
        return opened


def _cached(library: Library) -> Path | None:
    """Where the library is kept; None where this user has no safe folder to keep it in."""
    file_name = f"{library.name}-{library.cache_key()}.so"
    try:
        return library_folder() / file_name
    except UnsafeFolderError as error:
        warnings.warn(
            f"compiled libraries are not kept: {error}; set XDG_CACHE_HOME to a folder of yours", stacklevel=2
        )
    except OSError:
        pass
    return None


def _temporary_folder(beside: Path | None) -> tempfile.TemporaryDirectory[str]:
    """A new folder of this user, in the same one as `beside` if that can be written."""
    if beside is not None:
        with contextlib.suppress(OSError):
            return tempfile.TemporaryDirectory(dir=beside.parent)
    return tempfile.TemporaryDirectory()


def _compiler() -> list[str]:
    return shlex.split(os.environ.get("CC", "cc"))


def _search_paths() -> list[str]:
    """Compiler options for headers and libraries that lie in Python's own environment, such as conda's."""
    prefixes = dict.fromkeys((sys.prefix, sys.base_prefix, os.environ.get("CONDA_PREFIX", "")))
    found = (Path(prefix) for prefix in prefixes if prefix not in ("", "/usr"))
    return [
        option
        for prefix in found
        if (prefix / "include" / "jpeglib.h").is_file()
        for option in (f"-I{prefix}/include", f"-L{prefix}/lib", f"-Wl,-rpath,{prefix}/lib")
    ]


def _hash(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


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
