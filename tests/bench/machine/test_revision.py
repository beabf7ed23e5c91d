"""The commit of the code, and the changes that are kept beside a record."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.machine import revision
from bench.machine.revision import code_diff


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A git checkout with one commit, which takes the place of this project's."""
    monkeypatch.setattr(revision, "ROOT", tmp_path)
    monkeypatch.setattr(revision, "CODE", ("bench",))
    (tmp_path / "bench").mkdir()
    (tmp_path / "bench" / "module.py").write_text("a = 1\n", encoding="utf-8")
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "add", ".")
    git(tmp_path, "-c", "user.name=n", "-c", "user.email=e", "commit", "--quiet", "-m", "first")
    code_diff.cache_clear()
    yield tmp_path
    code_diff.cache_clear()


def git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, encoding="utf-8").stdout


def test_a_clean_checkout_has_a_commit_and_no_diff(checkout: Path) -> None:
    head = git(checkout, "rev-parse", "HEAD").strip()
    assert revision.revision() == {"commit": head, "dirty": False}
    assert code_diff() is None


def test_the_diff_recreates_the_changed_files(checkout: Path) -> None:
    changed = checkout / "bench" / "module.py"
    changed.write_text("a = 2\n", encoding="utf-8")
    assert revision.revision()["dirty"]
    diff = code_diff()
    assert diff is not None
    git(checkout, "checkout", "--quiet", ".")
    (checkout / diff.name).write_bytes(diff.content)
    git(checkout, "apply", diff.name)
    assert changed.read_text(encoding="utf-8") == "a = 2\n"


def test_a_secret_in_an_added_line_is_hidden_and_the_patch_still_applies(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "hunter22")
    changed = checkout / "bench" / "module.py"
    changed.write_text("a = 1\nb = 'http://me:pw@server'\nc = 'hunter22'\n", encoding="utf-8")
    diff = code_diff()
    assert diff is not None
    git(checkout, "checkout", "--quiet", ".")
    (checkout / diff.name).write_bytes(diff.content)
    git(checkout, "apply", diff.name)
    assert changed.read_text(encoding="utf-8") == "a = 1\nb = 'http://***@server'\nc = '***'\n"


def test_untracked_python_files_are_named_and_nothing_untracked_is_copied(checkout: Path) -> None:
    (checkout / "bench" / "new.py").write_text("token = 'hidden'\n", encoding="utf-8")
    (checkout / "bench" / "secrets.txt").write_text("hidden\n", encoding="utf-8")
    diff = code_diff()
    assert diff is not None
    assert diff.content == b"# untracked, content not kept: bench/new.py\n"


def test_changes_outside_the_code_do_not_count(checkout: Path) -> None:
    (checkout / "notes.py").write_text("", encoding="utf-8")
    assert not revision.revision()["dirty"]
    assert code_diff() is None


def test_a_long_diff_is_cut_at_a_line_and_says_so(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(revision, "DIFF_BYTES", 300)
    (checkout / "bench" / "module.py").write_text("a = 1\n" * 1000, encoding="utf-8")
    diff = code_diff()
    assert diff is not None
    *kept, last = diff.content.splitlines(keepends=True)
    size = len(b"".join(kept))
    assert size <= 300
    assert last.startswith(f"# cut: these are the first {size} of ".encode())


def test_the_same_changes_have_the_same_name(checkout: Path) -> None:
    names = []
    for _ in range(2):
        code_diff.cache_clear()
        (checkout / "bench" / "module.py").write_text("a = 3\n", encoding="utf-8")
        diff = code_diff()
        assert diff is not None
        names.append(diff.name)
    assert names[0] == names[1]
