"""Where records are published to."""

from __future__ import annotations

import re
import socket
import stat
from pathlib import Path

import pytest

from bench.machine import filesystems
from bench.tracking import location
from bench.tracking.location import artifact_location, tracking_uri
from reproduce.errors import UserError


@pytest.fixture
def network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on a network file system, and a local disk `local` beside it, as far as mountinfo tells."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "mountinfo").write_text(
        f"1 0 8:1 / / rw - ext4 a rw\n2 1 0:2 / {tmp_path}/shared rw - nfs4 b:/ rw\n", encoding="utf-8"
    )
    monkeypatch.setattr(filesystems, "MOUNTS", tmp_path / "mountinfo")
    (tmp_path / "local").mkdir()
    monkeypatch.setattr(location, "LOCAL_DISK", tmp_path / "local")
    monkeypatch.setattr("getpass.getuser", lambda: "me")
    return tmp_path / "shared"


def test_the_environment_names_the_store_else_it_is_beside_the_records(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert tracking_uri(tmp_path) == f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://server:5000")
    assert tracking_uri(tmp_path) == "http://server:5000"


def test_records_on_a_network_file_system_have_their_store_on_a_local_disk(network: Path) -> None:
    shared, other = (tracking_uri(network / name) for name in ("records", "other"))
    folder = network.parent / "local" / "deeper-me"
    assert re.fullmatch(rf"sqlite:///{folder}/{socket.gethostname()}-[0-9a-f]{{8}}/mlflow\.db", shared)
    assert shared != other
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert tracking_uri(network.parent / "records") == f"sqlite:///{network.parent}/records/mlflow.db"


def test_a_link_planted_at_the_path_of_the_store_is_refused(network: Path) -> None:
    planted = network.parent / "local" / "deeper-me"
    (network.parent / "elsewhere").mkdir()
    planted.symlink_to(network.parent / "elsewhere")
    with pytest.raises(UserError, match=r"deeper-me: it is a symbolic link to .*elsewhere"):
        tracking_uri(network / "records")


def test_artifacts_lie_beside_the_records_unless_a_server_keeps_them(tmp_path: Path) -> None:
    assert artifact_location(tmp_path, "sqlite:////a/mlflow.db", "e") == f"file://{tmp_path}/mlartifacts/e"
    assert artifact_location(tmp_path, "http://server:5000", "e") is None
