"""MLflow's own servers over PostgreSQL, with its basic authentication, as docs/tracking-server.md sets them up."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

from bench.tracking.dashboard import await_health, terminate
from bench.tracking.mlflow_setup import QUIET

RECORDS = Path(__file__).parents[3] / "results" / "ablation-imagenette" / "records"
NAME = "ablation-imagenette"
PASSWORD = "correct-horse-battery"
PROGRAMS = sorted(Path("/usr/lib/postgresql").glob("*/bin"))

pytestmark = pytest.mark.long


def run(*command: str | Path) -> None:
    subprocess.run([*map(str, command)], check=True, capture_output=True, timeout=300)


@pytest.fixture(scope="module")
def database() -> Iterator[str]:
    """The URI of a database in a PostgreSQL server of its own, which listens at a socket in its folder alone."""
    if not PROGRAMS or os.geteuid() != 0:
        if os.environ.get("CI"):
            pytest.fail("needs root and Debian's postgresql")
        pytest.skip("needs root and Debian's postgresql")
    folder = Path(tempfile.mkdtemp(prefix="deeper-pg-"))  # a socket's path is short
    shutil.chown(folder, "postgres")
    as_owner, programs = ("runuser", "-u", "postgres", "--"), PROGRAMS[-1]
    options = f"-c listen_addresses='' -k {folder} -c fsync=off"
    run(*as_owner, programs / "initdb", "-D", folder / "data", "--auth=trust")
    run(*as_owner, programs / "pg_ctl", "-D", folder / "data", "-w", "-l", folder / "log", "-o", options, "start")
    try:
        run(*as_owner, "createuser", "--host", folder, "deeper")
        run(*as_owner, "createdb", "--host", folder, "--owner", "deeper", "deeper")
        yield f"postgresql+psycopg://deeper@/deeper?host={folder}"
    finally:
        run(*as_owner, programs / "pg_ctl", "-D", folder / "data", "-m", "immediate", "stop")
        shutil.rmtree(folder)


@pytest.fixture(scope="module")
def server(database: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of MLflow's server with basic authentication over that database."""
    folder = tmp_path_factory.mktemp("server")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--app-name", "basic-auth", "--workers", "1"]
    command += ["--artifacts-destination", (folder / "artifacts").as_uri(), "--host", "127.0.0.1", "--port", str(port)]
    settings = (
        f"[mlflow]\ndefault_permission = READ\nadmin_username = admin\ndatabase_uri = sqlite:///{folder}/auth.db\n"
    )
    (folder / "basic_auth.ini").write_text(f"{settings}auth_cache_ttl_seconds = 60\n", encoding="utf-8")
    environment = {**os.environ, **QUIET, "MLFLOW_BACKEND_STORE_URI": database}
    environment["MLFLOW_AUTH_CONFIG_PATH"] = str(folder / "basic_auth.ini")
    environment |= {"MLFLOW_AUTH_ADMIN_PASSWORD": PASSWORD, "MLFLOW_FLASK_SERVER_SECRET_KEY": "any"}
    with open(folder / "log", "wb") as log:
        process = subprocess.Popen(command, env=environment, cwd=folder, stdout=log, stderr=log, start_new_session=True)
    try:
        address = f"http://127.0.0.1:{port}"
        await_health(process, address, folder / "log")
        yield address
    finally:
        terminate(process)


def deeper(*arguments: str | Path, server: str, password: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "MLFLOW_TRACKING_URI": server.replace("://", f"://admin:{password}@")}
    command = [sys.executable, "-m", "bench.cli", *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)


def test_records_are_published_and_reported_through_a_server_with_a_password(server: str, tmp_path: Path) -> None:
    records = shutil.copytree(RECORDS, tmp_path / "records")
    told = deeper("publish", "--once", "--records", records, server=server, password=PASSWORD)
    assert "everything is published" in told.stdout, told
    told = deeper(
        "report", NAME, "--records", records, "--output", tmp_path / "report", server=server, password=PASSWORD
    )
    assert told.returncode == 0, told
    ours, committed = (
        pd.read_csv(folder / "effects.csv") for folder in (tmp_path / "report", RECORDS.parent / "report")
    )
    pd.testing.assert_frame_equal(ours, committed)
    told = deeper("dashboard", NAME, "--records", records, server=server, password=PASSWORD)
    assert f"{server}/#/experiments/1/runs?workflowType=machine_learning&viewStateShareKey=arms-" in told.stdout
    assert PASSWORD not in told.stdout


def test_a_wrong_password_is_told(server: str, tmp_path: Path) -> None:
    told = deeper("report", NAME, "--output", tmp_path / "report", server=server, password="wrong")
    assert told.returncode == 2
    assert "401" in told.stderr
    assert "not authenticated" in told.stderr
