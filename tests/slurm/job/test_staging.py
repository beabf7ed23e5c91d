"""Data on a node's own disk: whole and verified, or one sentence."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from reproduce.data import DataError, load_manifest
from slurm.job.staging import stage


def test_data_are_copied_once_and_found_by_their_content(synthetic_data: Path, tmp_path: Path) -> None:
    said: list[str] = []
    root = stage(synthetic_data.parent, [synthetic_data.name], str(tmp_path), said.append)
    assert load_manifest(root / synthetic_data.name) == load_manifest(synthetic_data)
    assert len(said) == 1
    assert stage(synthetic_data.parent, [synthetic_data.name], str(tmp_path), said.append) == root
    assert len(said) == 1, "nothing is copied twice"


def test_damaged_data_never_get_the_name_of_a_copy(synthetic_data: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "data" / "images"
    shutil.copytree(synthetic_data, damaged)
    with (damaged / "val.beton").open("r+b") as file:
        file.seek(5000)
        file.write(b"damage")
    with pytest.raises(DataError, match=r"val\.beton: damaged"):
        stage(tmp_path / "data", ["images"], str(tmp_path / "scratch"), print)
    assert [path.suffix for path in (tmp_path / "scratch").glob("deeper-*/*") if path.is_dir()] == [".partial"]


def test_a_variable_that_a_node_does_not_have_is_named(synthetic_data: Path) -> None:
    with pytest.raises(ValueError, match=r"scratch: \$NO_SUCH_VARIABLE/x is '\$NO_SUCH_VARIABLE/x' on this node"):
        stage(synthetic_data.parent, [synthetic_data.name], "$NO_SUCH_VARIABLE/x", print)
