"""Which revision of this project's code runs: its commit, and what has changed since.

Wheels that `slurm.bundle` builds carry the commit in `bench/commit.json`, since git cannot be asked where they are
installed.
"""

from __future__ import annotations

import functools
import hashlib
import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
BUNDLED = ROOT / "bench" / "commit.json"
CODE = ("reproduce", "bench", "slurm", "analysis", "pyproject.toml")
"""Paths that make up the code: changes to other files do not count."""
DIFF_BYTES = 2**20
"""Bytes of a diff that are kept at most."""
GIT_TIMEOUT_S = 20


@dataclass(frozen=True)
class CodeDiff:
    """Uncommitted changes to the code, as a patch that `git apply` takes."""

    content: bytes

    @property
    def name(self) -> str:
        """File name under which the changes are kept; the same changes have the same name."""
        return f"code-{hashlib.sha256(self.content).hexdigest()[:12]}.diff"


def revision() -> dict[str, Any]:
    """Commit of the code and whether it has changes: `commit` and `dirty`.

    It is empty outside a git checkout and outside a bundle.
    """
    found = _git("rev-parse", "--show-toplevel", "HEAD")
    top, commit = found.decode().splitlines() if found is not None else (None, None)
    if top is None or Path(top) != ROOT:  # this package is installed, perhaps inside a checkout of another project
        bundled: dict[str, Any] = json.loads(BUNDLED.read_text(encoding="utf-8")) if BUNDLED.is_file() else {}
        return bundled
    return {"commit": commit, "dirty": bool(_git("status", "--porcelain", "--", *CODE))}


@functools.cache
def code_diff() -> CodeDiff | None:
    """Read the uncommitted changes to the code, once per process; None if there are none.

    Only tracked files contribute their content, so that no stray file with a secret ends up in a record. Untracked
    Python files are named in comments above the patch. A patch longer than `DIFF_BYTES` is cut, as its last line says.
    """
    if not revision().get("dirty"):
        return None
    patch = _git("diff", "HEAD", "--no-color", "--no-ext-diff", "--no-textconv", "--", *CODE) or b""
    untracked = (_git("ls-files", "--others", "--exclude-standard", "--", *CODE) or b"").splitlines()
    named = [b"# untracked, content not kept: " + path for path in untracked if path.endswith(b".py")]
    content = b"".join(line + b"\n" for line in named) + patch
    if len(content) > DIFF_BYTES:
        kept = content[: content.rfind(b"\n", 0, DIFF_BYTES) + 1]
        content = kept + f"# cut: these are the first {len(kept)} of {len(content)} bytes\n".encode()
    return CodeDiff(content) if content else None


def _git(*arguments: str) -> bytes | None:
    """What git prints about the checkout; None if there is no git, or it fails."""
    # The checkout may belong to another user, as in a container. Trusting its git configuration adds no risk, since
    # its code is being run.
    command = ["git", "-c", "safe.directory=*", "-C", str(ROOT), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, timeout=GIT_TIMEOUT_S)
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None
