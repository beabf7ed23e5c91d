"""Where records are published to."""

from __future__ import annotations

import os
import re
import shutil
import socket
import stat
from pathlib import Path

import pytest

from analysis.frames import read
from bench.machine import filesystems
from bench.tracking.location import artifact_location, sqlite_file, store_exists, tracking_uri
from bench.tracking.publishing import Publisher
from bench.tracking.reader import pending
from reproduce.errors import UserError
from reproduce.files import private_folders


@pytest.fixture
def network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on a network file system, and a local disk `local` beside it, as far as mountinfo tells."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "mountinfo").write_text(
        f"1 0 8:1 / / rw - ext4 a rw\n2 1 0:2 / {tmp_path}/shared rw - nfs4 b:/ rw\n", encoding="utf-8"
    )
    monkeypatch.setattr(filesystems, "MOUNTS", tmp_path / "mountinfo")
    (tmp_path / "local").mkdir()
    monkeypatch.setattr(private_folders, "LOCAL_DISK", tmp_path / "local")
    monkeypatch.setenv("LOGNAME", "me")
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
    with pytest.raises(UserError, match=r"deeper-me is a symbolic link to .*elsewhere"):
        tracking_uri(network / "records")


@pytest.mark.parametrize("name", ["runs?", "50%25", "%e4", "\udcff"])
def test_a_folder_in_which_mlflow_would_lose_the_store_is_refused(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(UserError, match=r"^records: .* MLflow cannot keep its SQLite file in such"):
        tracking_uri(tmp_path / name)


def test_a_store_is_made_found_and_reported_in_a_folder_of_any_other_name(
    one_run: Path, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    parent, name = tmp_path_factory.mktemp("parent"), "me@host:1 Läufe #2 of 50%, a&b=c;d 'it\"s' +[x]"
    records = parent / name
    shutil.copytree(one_run, records)
    uri = tracking_uri(records)
    assert not store_exists(uri)
    Publisher(records, uri).publish()
    assert store_exists(uri)
    assert sqlite_file(uri) == records / "mlflow.db"
    assert pending(records, uri) == 0
    assert len(list((records / "mlartifacts").rglob("config.yaml"))) == 1
    assert list(read("first", tracking_uri=uri).runs["arm"]) == ["full"]
    assert [entry.name for entry in parent.iterdir()] == [name]


@pytest.mark.parametrize(
    ("uri", "clean", "user", "password"),
    [
        ("http://me:hunter22@server:5000/base", "http://server:5000/base", "me", "hunter22"),
        ("https://a%40b:p%2Fw%3A1@server", "https://server", "a@b", "p/w:1"),
        ("http://server:5000", "http://server:5000", None, None),
        ("http://me@server:5000", "http://me@server:5000", None, None),
        ("postgresql://me:hunter22@server/db", "postgresql://me:hunter22@server/db", None, None),
    ],
)
def test_a_password_moves_from_the_uri_of_a_server_to_mlflows_variables(
    uri: str, clean: str, user: str | None, password: str | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name, value in (("URI", uri), ("USERNAME", ""), ("PASSWORD", "")):
        monkeypatch.setenv(f"MLFLOW_TRACKING_{name}", value)
    assert tracking_uri(tmp_path) == os.environ["MLFLOW_TRACKING_URI"] == clean
    assert os.environ["MLFLOW_TRACKING_USERNAME"] == (user or "")
    assert os.environ["MLFLOW_TRACKING_PASSWORD"] == (password or "")


@pytest.mark.parametrize(
    "uri", ["http://me:hunter/22@server", "http://me:hunter22@server:port", "http://", "http://[::1"]
)
def test_a_malformed_uri_of_a_server_is_refused_without_showing_it(
    uri: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(UserError, match=r"^MLFLOW_TRACKING_URI: its host or port is malformed") as caught:
        tracking_uri(tmp_path)
    assert "hunter" not in str(caught.value)


def test_artifacts_lie_beside_the_records_unless_a_server_keeps_them(tmp_path: Path) -> None:
    assert artifact_location(tmp_path, "sqlite:////a/mlflow.db", "e") == f"file://{tmp_path}/mlartifacts/e"
    assert artifact_location(tmp_path, "http://server:5000", "e") is None
