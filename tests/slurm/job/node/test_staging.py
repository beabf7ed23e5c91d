"""Data that are copied to a node's own disk: whole and verified, or one sentence."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from reproduce.data import DataError, load_manifest
from reproduce.errors import UserError
from slurm.job.config import LauncherConfig
from slurm.job.node import staging
from slurm.job.node.staging import prepare_data, stage_data


def stage(data: Path, scratch: Path | str, messages: list[str] | None = None) -> Path:
    return stage_data(data.parent, [data.name], str(scratch), ([] if messages is None else messages).append)


def own_folder(scratch: Path) -> Path:
    return scratch / f"deeper-{os.getuid()}"


def test_data_are_copied_once_and_found_by_their_content(synthetic_data: Path, tmp_path: Path) -> None:
    messages: list[str] = []
    root = stage(synthetic_data, tmp_path, messages)
    assert load_manifest(root / synthetic_data.name) == load_manifest(synthetic_data)
    assert len(messages) == 1
    assert stage(synthetic_data, tmp_path, messages) == root
    assert len(messages) == 1, "nothing is copied twice"


def test_a_damaged_copy_never_gets_its_final_name(synthetic_data: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "data" / "images"
    shutil.copytree(synthetic_data, damaged)
    with (damaged / "val.beton").open("r+b") as file:
        file.seek(5000)
        file.write(b"damage")
    with pytest.raises(DataError, match=r"val\.beton: changed or damaged"):
        stage(damaged, tmp_path / "scratch")
    assert [path.suffix for path in own_folder(tmp_path / "scratch").iterdir() if path.is_dir()] == [".partial"]


def test_an_error_of_the_disk_is_one_sentence(
    synthetic_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> None:
        raise OSError(errno.EIO, "Input/output error", str(tmp_path / "train.beton"))

    monkeypatch.setattr(staging, "_copy", broken)
    with pytest.raises(UserError, match=r"scratch: .*/train\.beton: Input/output error; mend that disk"):
        stage(synthetic_data, tmp_path / "scratch")


def test_a_variable_that_is_not_set_on_the_node_is_named(synthetic_data: Path) -> None:
    with pytest.raises(UserError, match=r"scratch: \$NO_SUCH_VARIABLE/x is '\$NO_SUCH_VARIABLE/x' on this node"):
        stage(synthetic_data, "$NO_SUCH_VARIABLE/x")


def test_a_planted_link_is_not_followed(synthetic_data: Path, tmp_path: Path) -> None:
    (tmp_path / "victim").mkdir()
    own_folder(tmp_path).symlink_to(tmp_path / "victim")
    with pytest.raises(UserError, match=r"is a symbolic link to .*, so its content is not used"):
        stage(synthetic_data, tmp_path)
    assert list((tmp_path / "victim").iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="giving a folder to another user needs root")
def test_a_copy_that_another_user_has_planted_is_not_trusted(synthetic_data: Path, tmp_path: Path) -> None:
    planted = stage(synthetic_data, tmp_path)
    os.chown(planted.parent, 12345, 12345)
    with pytest.raises(UserError, match="belongs to the user with id 12345, so its content is not used"):
        stage(synthetic_data, tmp_path)


def test_a_folder_that_this_node_does_not_see_is_named(tmp_path: Path) -> None:
    config = LauncherConfig(tmp_path / "missing", tmp_path / "tiny.yaml", records=tmp_path, data=tmp_path)
    with pytest.raises(UserError, match=r"--records: .*/missing does not exist on this node; name a folder that all"):
        prepare_data(config)
