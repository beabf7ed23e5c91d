"""A password for the tracking server gets into no command line, no file and no message, and a proxy into no local way.

The server is MLflow's own. In front of it stands a door that asks for a password, as nginx does in front of MLflow.
"""

from __future__ import annotations

import base64
import http.client
import shutil
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from bench import cli
from bench.records.plan import write_plan
from bench.records.record import Record
from bench.tracking.background import start_publisher, stop_publisher
from bench.tracking.dashboard import serving
from bench.tracking.location import tracking_uri
from reproduce.spec import PlannedRun

PASSWORD = "correct horse/battery"
IN_THE_URI = "correct%20horse%2Fbattery"
EXPECTED = "Basic " + base64.b64encode(f"deeper:{PASSWORD}".encode()).decode()


class Door(BaseHTTPRequestHandler):
    """Passes a request on to the server if it comes with the password."""

    behind: int

    def pass_on(self) -> None:
        content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.headers.get("Authorization") != EXPECTED:
            self.send_error(401)
            return
        server = http.client.HTTPConnection("127.0.0.1", self.behind)
        server.request(self.command, self.path, content, {"Content-Type": self.headers.get("Content-Type", "")})
        answer = server.getresponse()
        body = answer.read()
        self.send_response(answer.status)
        for name in ("Content-Type", "Content-Disposition"):
            if value := answer.getheader(name):
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def __getattr__(self, name: str) -> Callable[[], None]:
        if name.startswith("do_"):  # of every method
            return self.pass_on
        raise AttributeError(name)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def door(
    one_run: Path,
    store: Path,
    free_port: int,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[int]:
    """The port of a door to an MLflow server, which `serving` has started in spite of a proxy that is away."""
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    for name in ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"):
        monkeypatch.setenv(name, "")
    behind = tmp_path_factory.mktemp("server")
    shutil.copytree(one_run, behind, dirs_exist_ok=True)
    shutil.copy(store, behind)
    with serving(behind, uri=tracking_uri(behind), port=free_port):
        server = ThreadingHTTPServer(("127.0.0.1", 0), type("ThisDoor", (Door,), {"behind": free_port}))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()
        server.server_close()


def holders(secret: str) -> list[str]:
    """The command lines of this machine's processes that hold a secret."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if secret.encode() in words:
            found.append(words.decode(errors="replace"))
    return found


@pytest.mark.long
def test_the_password_of_a_server_is_used_and_shown_nowhere(
    door: int,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    planned: Callable[..., PlannedRun],
    begin: Callable[[Path, PlannedRun], Record],
) -> None:
    records = tmp_path_factory.mktemp("records")
    monkeypatch.chdir(records)
    write_plan(records, "second", [planned(1)], {})
    record = begin(records, planned(1))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://deeper:{IN_THE_URI}@127.0.0.1:{door}")
    publisher = start_publisher(records)
    assert [holders(secret) for secret in (PASSWORD, IN_THE_URI)] == [[], []]
    record.end("failed", error=f"OSError: http://deeper:{IN_THE_URI}@127.0.0.1 and {PASSWORD}")
    assert stop_publisher(publisher) is None

    places = ["--records", str(records)]
    for command in (["report", "second"], ["dashboard", "second"], ["doctor", "--json", "--data", str(records)]):
        cli.main([*command, *places])
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://deeper:{IN_THE_URI}@127.0.0.1:9")
    away = start_publisher(records)
    assert "http://127.0.0.1:9" in str(stop_publisher(away, timeout_s=6))

    printed = "".join(capfd.readouterr())
    assert f"MLflow: http://127.0.0.1:{door}/#/experiments/" in printed
    assert '"detail": "http://127.0.0.1:' in printed
    files = [path for path in records.rglob("*") if path.is_file()]
    assert {"publisher.log", "events.jsonl"} <= {path.name for path in files}
    for secret in (PASSWORD, IN_THE_URI):
        assert secret not in printed
        assert [path for path in files if secret.encode() in path.read_bytes()] == []
