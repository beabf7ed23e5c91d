"""Libraries that were compiled beforehand, for machines without a compiler; `slurm.bundle` packs them into its wheel.

The name of a library contains the digest of its sources and the level of x86-64 that it was compiled for. A library is
used if its sources are exactly those of this tree and the CPU has all instructions of its level.
"""

from __future__ import annotations

import platform
from pathlib import Path

from reproduce.native import cpu

FOLDER = Path(__file__).parent / "libraries"

_V3 = frozenset({"avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe", "xsave"})
_V4 = _V3 | {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}
LEVELS = {"x86-64-v4": _V4, "x86-64-v3": _V3}
"""Values of the compiler's -march, the best first, and the CPU flags, as Linux names them, that each needs."""


def file_name(name: str, digest: str, level: str) -> str:
    """The file name of a library compiled for a level."""
    return f"{name}-{digest}-{level}.so"


def find(name: str, digest: str) -> Path | None:
    """The best library for this CPU made from the sources with this digest, or None if there is none."""
    if platform.machine() != "x86_64":
        return None
    flags = frozenset(cpu.this_cpu().flags)
    for level, needed in LEVELS.items():
        path = FOLDER / file_name(name, digest, level)
        if needed <= flags and path.is_file():
            return path
    return None


def level_of(library: Path) -> str | None:
    """The level that a library was precompiled for; None for one that was compiled on this machine."""
    if library.parent != FOLDER:
        return None
    return next(level for level in LEVELS if library.stem.endswith(level))
