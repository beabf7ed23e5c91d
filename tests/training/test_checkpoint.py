from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from reproduce.training.checkpoint import CheckpointError, load, resume_point, save


def test_a_checkpoint_is_read_as_it_was_written(tmp_path: Path) -> None:
    save(tmp_path, {"key": "k", "epoch": 2, "step": 5, "weights": torch.arange(3)})
    state = load(tmp_path, "k")
    assert state is not None
    assert torch.equal(state["weights"], torch.arange(3))
    assert resume_point(tmp_path, "k") == {"epoch": 2, "step": 5}
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.pt"]


def test_no_checkpoint_is_no_error(tmp_path: Path) -> None:
    assert load(tmp_path, "k") is None
    assert resume_point(tmp_path, "k") is None


def test_a_write_that_fails_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path, {"key": "k", "epoch": 1})

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        save(tmp_path, {"key": "k", "epoch": 2})
    state = load(tmp_path, "k")
    assert state is not None
    assert state["epoch"] == 1


def test_another_runs_checkpoint_is_refused(tmp_path: Path) -> None:
    save(tmp_path, {"key": "mine"})
    with pytest.raises(CheckpointError, match="belongs to run mine, not to yours"):
        load(tmp_path, "yours")
