"""Finds the revision of this project's code that is running: its commit, and the changes since that commit.

Wheels that `slurm.bundle` builds carry the commit in `bench/commit.json`, since they are installed outside of any
checkout.
"""

from __future__ import annotations

import functools
import hashlib
import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reproduce.text.redaction import redacted

ROOT = Path(__file__).resolve().parents[2]
BUNDLED = ROOT / "bench" / "commit.json"
CODE = ("reproduce", "bench", "slurm", "analysis", "pyproject.toml")
"""Paths that make up the code. Changes to other files are ignored."""
DIFF_BYTES = 2**20
"""Size in bytes above which a diff is cut."""
GIT_TIMEOUT_S = 20


@dataclass(frozen=True)
class CodeDiff:
    """Uncommitted changes to the code, as a patch in git's format."""

    content: bytes
    """The patch. `git apply` accepts it, unless it was cut at `DIFF_BYTES`."""

    @property
    def name(self) -> str:
        """The name of the file in which the patch is kept: it contains a hash of the patch."""
        return f"code-{hashlib.sha256(self.content).hexdigest()[:12]}.diff"


def revision() -> dict[str, Any]:
    """Return the commit of the code that is running.

    Returns:
        A mapping with `commit`, the full hash, and `dirty`, whether the code has uncommitted changes or untracked
        files. Code installed from a bundle has those values of the checkout that built the bundle. The mapping is
        empty if the code comes from neither a git checkout nor a bundle, or if git fails.
    """
    found = _git("rev-parse", "--show-toplevel", "HEAD")
    top, commit = found.decode().splitlines() if found is not None else (None, None)
    if top is None or Path(top) != ROOT:  # this package is installed, perhaps inside a checkout of another project
        bundled: dict[str, Any] = json.loads(BUNDLED.read_text(encoding="utf-8")) if BUNDLED.is_file() else {}
        return bundled
    return {"commit": commit, "dirty": bool(_git("status", "--porcelain", "--", *CODE))}


@functools.cache
def code_diff() -> CodeDiff | None:
    """Return the uncommitted changes to the code, which are read once per process.

    Only tracked files contribute their content, so that no stray file with a secret ends up in a record. Untracked
    Python files are named in comments above the patch. Secrets in the lines that the patch adds are hidden by
    `redacted`. A patch longer than `DIFF_BYTES` is cut, and its last line says so.

    Returns:
        The changes. None if there are none besides untracked files that are not Python, or if the code does not run
        from a git checkout.
    """
    if not revision().get("dirty"):
        return None
    patch = _git("diff", "HEAD", "--no-color", "--no-ext-diff", "--no-textconv", "--", *CODE) or b""
    untracked = (_git("ls-files", "--others", "--exclude-standard", "--", *CODE) or b"").splitlines()
    named = [b"# untracked, content not kept: " + path for path in untracked if path.endswith(b".py")]
    content = b"".join(line + b"\n" for line in named) + _without_secrets(patch)
    if len(content) > DIFF_BYTES:
        kept = content[: content.rfind(b"\n", 0, DIFF_BYTES) + 1]
        content = kept + f"# cut: these are the first {len(kept)} of {len(content)} bytes\n".encode()
    return CodeDiff(content) if content else None


def _without_secrets(patch: bytes) -> bytes:
    """Hide secrets in the lines that a patch adds. The others are in the commit, and must match it."""
    return b"".join(
        redacted(line.decode(errors="surrogateescape")).encode(errors="surrogateescape")
        if line.startswith(b"+")
        else line
        for line in patch.splitlines(keepends=True)
    )


def _git(*arguments: str) -> bytes | None:
    """Return what a git command prints about the checkout, or None if git is missing, fails or takes too long."""
    # The checkout may belong to another user, as in a container. Trusting its git configuration adds no risk, since
    # its code is being run.
    command = ["git", "-c", "safe.directory=*", "-C", str(ROOT), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, timeout=GIT_TIMEOUT_S)
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None
