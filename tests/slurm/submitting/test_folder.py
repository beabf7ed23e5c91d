"""The folder of a submission: one of its own, or one sentence."""

from __future__ import annotations

from pathlib import Path

import pytest

from reproduce.errors import UserError
from slurm.submission import create_stamped_folder, create_submission_folder


def test_folders_of_the_same_second_have_a_number(tmp_path: Path) -> None:
    assert len({create_stamped_folder(tmp_path / "checks") for _ in range(3)}) == 3


def test_a_submission_folder_that_cannot_be_made_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments" / "tiny").write_text("a file in its place", encoding="utf-8")
    with pytest.raises(UserError, match=r"--records: .*/tiny/slurm cannot be created: Not a directory; name a folder"):
        create_submission_folder(tmp_path, "tiny")
