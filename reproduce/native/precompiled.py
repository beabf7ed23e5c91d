"""Libraries that were compiled in advance, for machines without a compiler. `slurm.bundle` packs them into its wheel.

The file name of a library contains the digest of its sources (`Library.digest`) and the level of x86-64 for which it
was compiled. A library is used if its sources are exactly those of this tree and the CPU has all instructions of its
level.
"""

from __future__ import annotations

import platform
from pathlib import Path

from reproduce.native import cpu

FOLDER = Path(__file__).parent / "libraries"

_V3 = frozenset({"avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe", "xsave"})
_V4 = _V3 | {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}
LEVELS = {"x86-64-v4": _V4, "x86-64-v3": _V3}
"""Levels of x86-64, which are values of the compiler's option -march, and the CPU flags that each needs, in Linux's
spelling. The best level is the first."""


def file_name(name: str, digest: str, level: str) -> str:
    """Make the file name of a precompiled library from its name, the digest of its sources, and its level."""
    return f"{name}-{digest}-{level}.so"


def find(name: str, digest: str) -> Path | None:
    """Find the precompiled library with the best level that this CPU supports.

    Args:
        name: Name of the library.
        digest: Digest of its sources, see `Library.digest`.

    Returns:
        Path of the library, or None if no library with this digest runs on this CPU.
    """
    if platform.machine() != "x86_64":
        return None
    flags = frozenset(cpu.this_cpu().flags)
    for level, needed in LEVELS.items():
        path = FOLDER / file_name(name, digest, level)
        if needed <= flags and path.is_file():
            return path
    return None


def level_of(library: Path) -> str | None:
    """Return the level for which a library in `FOLDER` was precompiled, or None for a library in any other folder."""
    if library.parent != FOLDER:
        return None
    return next(level for level in LEVELS if library.stem.endswith(level))
