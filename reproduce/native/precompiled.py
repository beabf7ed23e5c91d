"""Libraries that were compiled in advance, for machines without a compiler. `slurm.bundle` packs them into its wheel.

The file name of a library contains the digest of its sources (`Library.digest`) and the level of x86-64 for which it
was compiled. A library is used if its sources are exactly those of this tree and the CPU has all instructions of its
level.
"""

from __future__ import annotations

import platform
from pathlib import Path

from reproduce.native import levels

FOLDER = Path(__file__).parent / "libraries"


def file_name(name: str, digest: str, level: str) -> str:
    """Make the file name of a precompiled library from its name, the digest of its sources, and its level."""
    return f"{name}-{digest}-{level}.so"


def find(name: str, digest: str) -> Path | None:
    """Find the precompiled library with the best level that this CPU supports and `levels.VARIABLE` allows.

    Args:
        name: Name of the library.
        digest: Digest of its sources, see `Library.digest`.

    Returns:
        Path of the library, or None if no library with this digest runs on this CPU.

    Raises:
        UserError: `levels.VARIABLE` has a value that is not valid here.
    """
    if platform.machine() != "x86_64":
        return None
    for level in levels.usable():
        path = FOLDER / file_name(name, digest, level)
        if path.is_file():
            return path
    return None


def level_of(library: Path) -> str | None:
    """Return the level for which a library in `FOLDER` was precompiled, or None for a library in any other folder."""
    if library.parent != FOLDER:
        return None
    return next(level for level in levels.LEVELS if library.stem.endswith(level))
