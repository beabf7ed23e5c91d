"""Libraries compiled beforehand, for machines without a compiler; `slurm.bundle` puts them into the wheel it makes.

One serves if it was made from exactly these sources for a level of x86-64 that this CPU has; its name tells both. All
levels compute the same numbers, since `compiling.FLAGS` let nothing be contracted or reassociated.
"""

from __future__ import annotations

import platform
from pathlib import Path

FOLDER = Path(__file__).parent / "libraries"

_V3 = frozenset({"avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe", "xsave"})
_V4 = _V3 | {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}
LEVELS = {"x86-64-v4": _V4, "x86-64-v3": _V3}
"""What -march is given, the best first, and the CPU's flags, as Linux names them, that it takes."""


def file_name(name: str, digest: str, level: str) -> str:
    return f"{name}-{digest}-{level}.so"


def find(name: str, digest: str) -> Path | None:
    """The best library for this CPU made from the sources with this digest, if there is one."""
    able = cpu_flags()
    for level, needed in LEVELS.items():
        path = FOLDER / file_name(name, digest, level)
        if needed <= able and path.is_file():
            return path
    return None


def told_of(path: Path) -> str:
    """For people: how a library was made, beyond what it was built with; empty for one compiled on this machine."""
    if path.parent != FOLDER:
        return ""
    level = next(level for level in LEVELS if path.stem.endswith(level))
    return f", precompiled for {level}"


def cpu_flags() -> frozenset[str]:
    """What this CPU can do; nothing where it is no x86-64."""
    if platform.machine() != "x86_64":
        return frozenset()
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("flags"):
            return frozenset(line.partition(":")[2].split())
    return frozenset()
