"""Compiles crop.c at a machine's first use, with the machine's own compiler, and keeps it for the next process."""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import os
import platform
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

SOURCE = Path(__file__).with_name("crop.c")
# Without contraction of a * b + c: a random box has the same numbers as in numba, and on every machine.
FLAGS = ("-O3", "-march=native", "-std=gnu11", "-ffp-contract=off", "-shared", "-fPIC", "-pthread")
LIBRARIES = ("-ljpeg", "-lm")

CURE = (
    "install a C compiler and libjpeg-turbo's header (Debian: apt-get install gcc libjpeg62-turbo-dev; "
    "conda: conda install -c conda-forge c-compiler libjpeg-turbo)"
)


class UnavailableError(Exception):
    """The native decoder cannot be built or loaded here; the message says why in one line."""


def load() -> ctypes.CDLL:
    """The compiled crop.c, from the cache or built now (2 s); raises `UnavailableError`.

    The cache is $XDG_CACHE_HOME/deeper (~/.cache/deeper), a file for each source, compiler, flags and CPU. Processes
    that build at once each put a whole file in place. Where the cache cannot be written, each process builds its own.
    """
    compiler = shlex.split(os.environ.get("CC", "cc"))
    target = cache() / f"crop-{_key(compiler)}.so"
    if target.is_file():
        return _open(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        place = tempfile.TemporaryDirectory(dir=target.parent)
    except OSError:
        place = tempfile.TemporaryDirectory()
    with place as folder:
        built = Path(folder) / target.name
        _run([*compiler, *FLAGS, *_prefixes(), str(SOURCE), "-o", str(built), *LIBRARIES])
        library = _open(built)
        with contextlib.suppress(OSError):
            built.replace(target)
    return library


def cache() -> Path:
    """Where the compiled decoder is kept."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "deeper"


def _key(compiler: list[str]) -> str:
    parts = [SOURCE.read_text(), *compiler, *FLAGS, *_prefixes(), *LIBRARIES, _run([*compiler, "--version"]), _cpu()]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def _cpu() -> str:
    """What -march=native depends on."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    told = [line for line in lines if line.startswith(("model name", "flags", "Features", "CPU part"))]
    return "\n".join([platform.machine(), *dict.fromkeys(told)])


def _prefixes() -> list[str]:
    """Options for a libjpeg-turbo that lies in Python's own environment (conda)."""
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
        done = subprocess.run(command, capture_output=True, text=True)
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
