"""Hashes the source files that training executes, so that attempts at a run can be compared by their code.

The commit does not serve: most commits leave these files alone, and a bundle or uncommitted changes have none.
"""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path

ROOT = Path(__file__).parent
COMPUTING = ("data/loading", "execution", "models", "native", "training")
"""The folders whose sources, in Python and C, determine the numbers of a run with a given configuration."""
SUFFIXES = (".py", ".c", ".h")


def source_files(root: Path = ROOT) -> list[Path]:
    """List the source files that are hashed, sorted by their path below `root`."""
    found = (path for folder in COMPUTING for path in (root / folder).rglob("*") if path.suffix in SUFFIXES)
    return sorted(found, key=lambda path: path.relative_to(root).as_posix())


@functools.cache
def code_hash(root: Path = ROOT) -> str:
    """Hash the names and contents of the source files, once in a process.

    Returns:
        12 hexadecimal digits.
    """
    digest = hashlib.sha256()
    for path in source_files(root):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(root).as_posix()}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()[:12]
