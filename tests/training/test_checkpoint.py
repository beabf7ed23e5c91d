from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from reproduce.files.disk import DiskFullError
from reproduce.training.checkpoint import (
    FILE_NAME,
    FILE_NAME_BEFORE,
    TRAILER_SIZE,
    CheckpointError,
    load,
    load_and_name_damaged,
    put_back,
    resume_point,
    save,
)


def state_of(epoch: int) -> dict[str, Any]:
    random = torch.Generator().manual_seed(epoch)
    weights = {f"layer{number}": torch.rand(2000, generator=random) for number in range(8)}
    return {"key": "k", "epoch": epoch, "step": 0, "network": weights}


def same(left: dict[str, Any], right: dict[str, Any]) -> bool:
    return left["epoch"] == right["epoch"] and all(
        torch.equal(weights, right["network"][name]) for name, weights in left["network"].items()
    )


def flip(content: bytes, at: int) -> bytes:
    return content[:at] + bytes([content[at] ^ 1 << at % 8]) + content[at + 1 :]


def zero(content: bytes, at: int) -> bytes:
    return (
        content[: at // 4096 * 4096]
        + bytes(len(content[at // 4096 * 4096 :][:4096]))
        + content[at // 4096 * 4096 + 4096 :]
    )


def cut(content: bytes, at: int) -> bytes:
    return content[:at]


def test_a_checkpoint_is_read_as_it_was_written(tmp_path: Path) -> None:
    save(tmp_path, {"key": "k", "epoch": 2, "step": 5, "weights": torch.arange(3)})
    state = load(tmp_path, "k")
    assert state is not None
    assert torch.equal(state["weights"], torch.arange(3))
    assert resume_point(tmp_path, "k") == ({"epoch": 2, "step": 5}, [])
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.pt"]


def test_no_checkpoint_is_no_error(tmp_path: Path) -> None:
    assert load(tmp_path, "k") is None
    assert resume_point(tmp_path, "k") == (None, [])


def test_a_write_that_fails_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path, {"key": "k", "epoch": 1})

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DiskFullError, match="No space"):
        save(tmp_path, {"key": "k", "epoch": 2})
    state = load(tmp_path, "k")
    assert state is not None
    assert state["epoch"] == 1


def test_another_runs_checkpoint_is_refused(tmp_path: Path) -> None:
    save(tmp_path, {"key": "mine"})
    with pytest.raises(CheckpointError, match="belongs to run mine, not to yours"):
        load(tmp_path, "yours")


@pytest.mark.parametrize("damage", [flip, zero, cut])
def test_every_damage_is_noticed_and_the_checkpoint_before_is_used(
    tmp_path: Path, damage: Callable[[bytes, int], bytes]
) -> None:
    before, newest = state_of(1), state_of(2)
    save(tmp_path, before)
    save(tmp_path, newest)
    content = (tmp_path / FILE_NAME).read_bytes()
    size = len(content)
    places = {*range(0, size, size // 150), *range(size - TRAILER_SIZE - 40, size), *range(120)}
    for at in places - {size - TRAILER_SIZE} if damage is cut else places:
        if (damaged := damage(content, at)) != content:
            (tmp_path / FILE_NAME).write_bytes(damaged)
            state, names = load_and_name_damaged(tmp_path, "k")
            assert names == [FILE_NAME], at
            assert state is not None
            assert same(state, before)
    assert resume_point(tmp_path, "k") == ({"epoch": 1, "step": 0}, [FILE_NAME])


def test_a_checkpoint_that_lost_only_its_checksum_is_read(tmp_path: Path) -> None:
    save(tmp_path, state_of(1))
    (tmp_path / FILE_NAME).write_bytes((tmp_path / FILE_NAME).read_bytes()[:-TRAILER_SIZE])
    state, names = load_and_name_damaged(tmp_path, "k")
    assert state is not None
    assert same(state, state_of(1))
    assert names == []


@pytest.mark.parametrize("damage", [flip, zero, cut])
def test_a_checkpoint_of_an_earlier_version_is_read_and_its_damage_is_noticed(
    tmp_path: Path, damage: Callable[[bytes, int], bytes]
) -> None:
    torch.save(state_of(1), tmp_path / FILE_NAME)
    content = (tmp_path / FILE_NAME).read_bytes()
    state, names = load_and_name_damaged(tmp_path, "k")
    assert state is not None
    assert same(state, state_of(1))
    assert names == []
    noticed = 0
    places = [*range(0, len(content), len(content) // 150), *range(len(content) - 600, len(content))]
    for at in places:
        (tmp_path / FILE_NAME).write_bytes(damage(content, at))
        state, names = load_and_name_damaged(tmp_path, "k")
        noticed += names == [FILE_NAME]
        assert state is None or same(state, state_of(1)), at  # padding and dates within the zip file hold nothing
    assert noticed > len(places) * (0.4 if damage is flip else 0.9)


def test_a_truncated_checkpoint_without_one_before_starts_the_run_afresh(tmp_path: Path) -> None:
    save(tmp_path, state_of(1))
    os.truncate(tmp_path / FILE_NAME, 1000)
    assert load_and_name_damaged(tmp_path, "k") == (None, [FILE_NAME])
    save(tmp_path, state_of(2))
    assert resume_point(tmp_path, "k") == ({"epoch": 2, "step": 0}, [])


def test_a_good_checkpoint_never_makes_room_for_a_damaged_one(tmp_path: Path) -> None:
    save(tmp_path, state_of(1))
    save(tmp_path, state_of(2))
    os.truncate(tmp_path / FILE_NAME, 1000)
    put_back(tmp_path)
    save(tmp_path, state_of(3))
    os.truncate(tmp_path / FILE_NAME, 1000)
    assert resume_point(tmp_path, "k") == ({"epoch": 1, "step": 0}, [FILE_NAME])


def test_a_process_that_dies_between_the_two_renames_loses_nothing(tmp_path: Path) -> None:
    save(tmp_path, state_of(1))
    (tmp_path / FILE_NAME).rename(tmp_path / FILE_NAME_BEFORE)
    assert resume_point(tmp_path, "k") == ({"epoch": 1, "step": 0}, [])


def test_a_folder_in_place_of_a_checkpoint_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).mkdir()
    with pytest.raises(CheckpointError, match=r"checkpoint\.pt: cannot be read: Is a directory; mend that"):
        load_and_name_damaged(tmp_path, "key")
