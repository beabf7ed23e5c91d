"""One run under several machines and settings, with real Ray: what is recorded, what is refused, what is allowed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from bench.records.states import read_events, read_state
from reproduce.data import synthetic
from reproduce.data.writing import prepare
from tests.patience import PATIENCE_S

EXPERIMENT: dict[str, Any] = {
    "name": "machines",
    "data": {"path": "stripes"},
    "recipe": {"epochs": 1, "batch_size": 32, "learning_rate": 0.02, "resolution": 32, "precision": "bf16"},
    "probes": [],
    "arms": {"none": {"network": {"aux": "none"}}},
    "seeds": [0],
}
ANOTHER_MACHINE = {"ATEN_CPU_CAPABILITY": "default"}
"""torch takes no vector instructions, as on a CPU that has none."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("machines")
    prepare(synthetic(classes=4, images=64, size=32, seed=0), folder / "data" / "stripes")
    return folder


def deeper_run(place: Path, records: str, *options: str, cpus: int = 1, **variables: str) -> tuple[int, str]:
    """Run the experiment, and return the exit code and what is printed."""
    path = place / "machines.yaml"
    path.write_text(yaml.safe_dump({**EXPERIMENT, "resources": {"cpus_per_worker": cpus}}), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "bench.cli", "run", path.name, "--records", records, "--no-publish", *options],
        cwd=place,
        env={**os.environ, **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
        timeout=PATIENCE_S,
    )
    return done.returncode, " ".join(done.stdout.split())


def folder_of(place: Path, records: str) -> Path:
    (folder,) = (place / records / "runs").iterdir()
    return folder


@pytest.mark.long
def test_threads_decoder_and_kernels_share_a_key_and_are_recorded(place: Path) -> None:
    settings = {
        "one": {},
        "two-threads": {"cpus": 2},
        "stock": {"DEEPER_DECODER": "stock"},
        "torch": {"DEEPER_KERNELS": "torch"},
    }
    for records, setting in settings.items():
        code, printed = deeper_run(place, records, **setting)  # type: ignore[arg-type]
        assert code == 0, printed
    folders = {records: folder_of(place, records) for records in settings}
    assert len({folder.name for folder in folders.values()}) == 1
    found = {records: read_events(folder)[0]["computation"] for records, folder in folders.items()}
    assert [found[records]["threads"] for records in settings] == [1, 2, 1, 1]
    assert [found[records]["decoder"] for records in settings] == ["native", "native", "stock", "native"]
    assert [found[records]["kernels"] for records in settings] == ["native", "native", "native", "torch"]
    assert len({(facts["machine"], facts["code"], facts["torch"]) for facts in found.values()}) == 1
    losses = {records: read_events(folder)[1]["metrics"]["train/loss"] for records, folder in folders.items()}
    for records in ("two-threads", "torch"):
        assert losses[records] == pytest.approx(losses["one"], rel=0.05), "equal up to rounding in bf16"


@pytest.mark.long
@pytest.mark.skipif(torch.backends.cpu.get_cpu_capability() == "DEFAULT", reason="no vector instructions to forbid")
def test_a_run_is_resumed_on_another_kind_of_machine_only_if_this_is_allowed(place: Path) -> None:
    assert deeper_run(place, "resumed")[0] == 0
    folder = folder_of(place, "resumed")
    log = folder / "events.jsonl"
    killed = "".join(line for line in log.read_text(encoding="utf-8").splitlines(True) if '"kind": "end"' not in line)
    log.write_text(killed, encoding="utf-8")

    code, printed = deeper_run(place, "resumed", **ANOTHER_MACHINE)
    assert code == 1
    assert "none s0: not resumed: its checkpoint comes from another kind of machine" in printed
    assert "--allow-other-machine" in printed
    assert log.read_text(encoding="utf-8") == killed
    assert read_state(folder).status == "interrupted"
    status = subprocess.run(
        [sys.executable, "-m", "bench.cli", "status", "machines", "--records", "resumed"],
        cwd=place,
        capture_output=True,
        text=True,
        encoding="utf-8",
    )
    assert "none s0: not resumed: its checkpoint comes from another kind of machine" in " ".join(status.stdout.split())

    code, printed = deeper_run(place, "resumed", "--allow-other-machine", **ANOTHER_MACHINE)
    assert code == 0, printed
    assert "not resumed" not in printed
    starts = [event for event in read_events(folder) if event["kind"] == "start"]
    assert [list(event["changes"]) for event in starts] == [[], ["machine"]]
    assert starts[1]["changes"]["machine"] == [event["computation"]["machine"] for event in starts]


def test_without_a_decoder_the_command_ends_before_anything_starts(place: Path, tmp_path: Path) -> None:
    code, printed = deeper_run(place, "nothing", CC="no-such-compiler", XDG_CACHE_HOME=str(tmp_path))
    assert code == 2
    assert "deeper: decoder: no C compiler: no-such-compiler" in printed
    assert printed.endswith("or set DEEPER_DECODER=stock, which decodes with FFCV's own decoder to other pixels")
    assert not (place / "nothing" / "runs").exists()
