"""Compiling and loading of libraries written in C.

The machine's own compiler compiles a library at its first use, and the file is kept for later processes. A library that
was compiled in advance from the same sources for this CPU (`reproduce.native.precompiled`) is preferred.
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
from reproduce.files.private_folders import UnsafeFolderError
from reproduce.native import cpu, levels, precompiled
from reproduce.native.caching import is_trusted, is_whole, library_folder, seal

# The compiler must not fuse a * b + c into one operation: results would depend on whether the CPU has it.
FLAGS = ("-O3", "-std=gnu11", "-ffp-contract=off", "-fPIC", "-pthread")


class UnavailableError(Exception):
    """Raised if a library cannot be compiled or loaded on this machine. The message says why in one line."""


class ImplementationError(UserError):
    """Raised if an environment variable selects an implementation that does not exist or is unavailable.

    The message names the variable and its value, and the valid values or what to install.
    """


@dataclass(frozen=True)
class Implementation:
    """The implementation that this process uses for the work of a `Library`: the C library or its fallback."""

    name: str
    """`native`, or the name of the fallback."""
    detail: str
    """The compiler or the linked library that the C library was built with, or the reason why it is not used."""
    hint: str = ""
    """What to install to make the library available. Empty if the library is used or the fallback was selected."""

    @property
    def native(self) -> bool:
        """Whether the C library is used."""
        return self.name == "native"

    def __str__(self) -> str:
        return f"{self.name} ({self.detail})"


@dataclass(frozen=True, kw_only=True)
class Library:
    """A shared library written in C, and the fallback for machines where it is unavailable.

    The user selects one by an environment variable, whose name is `variable`. Its value is `native` or the name of the
    fallback. If it is unset, the library is used wherever it can be built. Elsewhere the fallback takes its place,
    unless it has to be asked for.
    """

    sources: tuple[Path, ...]
    """C files and headers. The first one gives the library its name."""
    role: str
    """One word for what the library does, used in messages and in records of the environment."""
    fallback: str
    """Name of the fallback, a valid value of the environment variable."""
    variable: str
    """Name of the environment variable that selects the implementation."""
    hint: str
    """What to install if the library cannot be built."""
    links: tuple[str, ...] = ()
    """Linker options, such as `-ljpeg`."""
    on_request: str = ""
    """What the fallback changes in the results, if that is more than rounding. The fallback is then used only if the
    environment variable asks for it. Empty if it changes nothing else."""
    openmp: bool = False
    """Whether the library uses OpenMP. It is then linked to no OpenMP runtime but uses the one that torch loads."""

    @property
    def name(self) -> str:
        """Name of the first source file without its suffix, with which the library's file names begin."""
        return self.sources[0].stem

    def requested(self) -> str:
        """Read the environment variable that selects the implementation.

        Returns:
            `native`, the name of the fallback, or an empty string if the variable is unset.

        Raises:
            ImplementationError: The variable has another value.
            UserError: `levels.VARIABLE` has a value that is not valid here.
        """
        levels.requested()
        value = os.environ.get(self.variable, "")
        if value not in ("", "native", self.fallback):
            raise ImplementationError(f"{self.variable}={value}: unknown; valid: native, {self.fallback}, or unset")
        return value

    def implementation(self) -> Implementation:
        """Determine the implementation that this process uses.

        Unless the fallback is selected, this loads the library, and builds it first if necessary (see `load`).

        Raises:
            ImplementationError: The environment variable has an invalid value, or the library is unavailable and the
                variable does not allow the fallback: it is `native`, or it is unset and the fallback changes results
                (see `on_request`).
        """
        return _implementation(self, self.requested(), levels.requested())

    def load(self) -> ctypes.CDLL:
        """Load the library, whatever the environment variable selects, and build it first if necessary.

        Building takes about two seconds. A process loads each library once for each level that `levels.VARIABLE`
        names, and tries it only once: later calls return the same object, or raise the same error.

        Raises:
            UnavailableError: The library cannot be built or loaded.
        """
        loaded = _load_once(self, levels.requested())
        if isinstance(loaded, str):
            raise UnavailableError(loaded)
        return loaded

    def precompile(self, folder: Path) -> None:
        """Build the library for each level of x86-64, under the file names that `precompiled.find` looks for.

        Args:
            folder: An existing folder, in which the libraries are written.

        Raises:
            UnavailableError: The compiler is missing or fails.
        """
        for level in levels.LEVELS:
            self.build(folder / precompiled.file_name(self.name, self.digest(), level), level)

    def build(self, target: Path, march: str) -> None:
        """Compile and link the sources.

        Args:
            target: File of the library. Its folder must exist and is also used for temporary files.
            march: Value of the compiler's option -march, such as `native` or `x86-64-v3`.

        Raises:
            UnavailableError: The compiler is missing or fails.
        """
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
        """Hash the texts of the sources, the common compiler flags `FLAGS`, and the linker options.

        The file name of a precompiled library contains it, so that a library of other sources is not used. It does not
        depend on this machine; `cache_key` also covers what does.

        Returns:
            16 hexadecimal digits.
        """
        return _hash(*(path.read_text(encoding="utf-8") for path in self.sources), *FLAGS, *self.links)

    def cache_key(self) -> str:
        """Hash everything that determines the library when it is compiled on this machine.

        It covers `digest`, the compiler and its version, the search paths for headers and libraries, `openmp`, the CPU,
        and the level that `levels.VARIABLE` names. The file name of a library in the cache contains it.

        Returns:
            16 hexadecimal digits.

        Raises:
            UnavailableError: There is no compiler.
        """
        compiler = _compiler()
        version = _run([*compiler, "--version"]).partition("\n")[0]
        this_machine = (platform.machine(), repr(cpu.this_cpu()), levels.requested())
        return _hash(self.digest(), *compiler, version, *_search_paths(), str(self.openmp), *this_machine)


@functools.cache
def _load_once(library: Library, level: str) -> ctypes.CDLL | str:
    """Load the library for the level that `levels.VARIABLE` names, or return why it is unavailable.

    The result is cached for each level, since every layer of a network needs it.
    """
    try:
        return _load(library)
    except UnavailableError as error:
        return str(error)


@functools.cache
def _implementation(library: Library, requested: str, level: str) -> Implementation:
    if requested == library.fallback:
        return Implementation(library.fallback, f"{library.variable}={library.fallback}")
    loaded = _load_once(library, level)
    if isinstance(loaded, ctypes.CDLL):
        loaded.built_with.argtypes, loaded.built_with.restype = (), ctypes.c_char_p
        in_advance = precompiled.level_of(Path(loaded._name))
        how = f", precompiled for {in_advance}" if in_advance else f", compiled for {level}" if level else ""
        return Implementation("native", loaded.built_with().decode() + how)
    if requested == "native":
        raise ImplementationError(f"{library.variable}=native: {loaded}; {library.hint}")
    if library.on_request:
        raise ImplementationError(
            f"{library.role}: {loaded}; {library.hint}, or set {library.variable}={library.fallback}, which "
            f"{library.on_request}"
        )
    return Implementation(library.fallback, loaded, library.hint)


def _load(library: Library) -> ctypes.CDLL:
    """Load the precompiled library, else the one in the cache, else build it, which takes about two seconds.

    The cache holds one file for each version of the sources, compiler, flags and CPU. Processes that build at the same
    time each replace the whole file. A process that cannot use the cache builds the library for itself.
    """
    if library.openmp:
        import torch  # noqa: F401  (brings the OpenMP runtime)
    ready = precompiled.find(library.name, library.digest())
    if ready is not None:
        return _open(ready)
    cached = _cached(library)
    if cached is not None and is_trusted(cached) and is_whole(cached):
        return _open(cached)
    with _temporary_folder(cached) as folder:
        built = Path(folder, f"{library.name}.so")
        library.build(built, levels.requested() or "native")
        built.chmod(0o700)
        seal(built)
        opened = _open(built)
        if cached is not None:
            with contextlib.suppress(OSError):
                built.replace(cached)
        return opened


def _cached(library: Library) -> Path | None:
    """Return the path of the library in the cache, or None if this user has no safe folder for it."""
    file_name = f"{library.name}-{library.cache_key()}.so"
    try:
        return library_folder() / file_name
    except UnsafeFolderError as error:
        warnings.warn(
            f"compiled libraries are not kept: {error}; set XDG_CACHE_HOME to a folder of yours", stacklevel=2
        )
    except (OSError, UserError):
        pass
    return None


def _temporary_folder(beside: Path | None) -> tempfile.TemporaryDirectory[str]:
    """Create a temporary folder in the parent of `beside`, or in the system's folder if that cannot be written."""
    if beside is not None:
        with contextlib.suppress(OSError):
            return tempfile.TemporaryDirectory(dir=beside.parent)
    return tempfile.TemporaryDirectory()


def _compiler() -> list[str]:
    return shlex.split(os.environ.get("CC", "cc"))


def _search_paths() -> list[str]:
    """Return compiler options that find libjpeg in Python's own environment, such as one of conda."""
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
