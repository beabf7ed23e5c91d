"""The hash of the code that training executes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from reproduce.code import COMPUTING, ROOT, code_hash, source_files

NO_NUMBERS = {
    *(
        "reproduce",
        "reproduce.analysis",
        "reproduce.code",
        "reproduce.config",
        "reproduce.errors",
        "reproduce.limits",
        "reproduce.resources",
        "reproduce.schema",
    ),
    *("reproduce.data", "reproduce.data.encoding", "reproduce.data.manifest"),
    *("reproduce.data.markers", "reproduce.data.sources", "reproduce.data.verification", "reproduce.spec"),
}
"""Modules that a training loads but that do not compute: configurations, which are keyed, and preparation of data."""


NO_NUMBERS_BELOW = ("reproduce.data.reading", "reproduce.experiments", "reproduce.files", "reproduce.text")
"""Packages of which the same is true."""


def test_every_module_that_training_loads_is_hashed() -> None:
    shown = subprocess.run(
        [sys.executable, "-c", "import sys, reproduce.training.loop; print(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
        encoding="utf-8",
    )
    hashed = {".".join(("reproduce", *path.relative_to(ROOT).with_suffix("").parts)) for path in source_files()}
    hashed |= {name.removesuffix(".__init__") for name in hashed}
    loaded = {name for name in shown.stdout.split() if name.split(".")[0] == "reproduce"}
    assert {name for name in loaded - hashed - NO_NUMBERS if not name.startswith(NO_NUMBERS_BELOW)} == set()
    assert {path.suffix for path in source_files()} == {".py", ".c", ".h"}


def test_a_change_of_a_source_changes_the_hash_and_a_change_elsewhere_does_not(tmp_path: Path) -> None:
    def tree(name: str, **files: str) -> Path:
        for path, content in {"step.py": "1", "kernel.c": "2", **files}.items():
            file = tmp_path / name / COMPUTING[-1] / path.replace("@", "/")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(content, encoding="utf-8")
        return tmp_path / name

    first = code_hash(tree("first"))
    assert code_hash(tree("same", **{"library.so": "built", "@step.pyc": "cached"})) == first
    assert code_hash(tree("python", **{"step.py": "3"})) != first
    assert code_hash(tree("native", **{"kernel.c": "3"})) != first
    assert code_hash(tree("moved", **{"kernel.c": "", "kernel2.c": "2"})) != first
