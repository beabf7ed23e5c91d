"""`deeper run` without Ray: what the command says and ends with when something goes wrong in the driver."""

from __future__ import annotations

import contextlib
import functools
import logging
import shlex
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
import yaml

from bench.cli import main
from bench.console.exit_codes import BUG, DONE, INTERRUPTED, WRONG_INPUT
from bench.orchestration import cluster, orchestrator
from bench.orchestration.orchestrator import Orchestrator
from bench.orchestration.worker import Outcome
from bench.planning import plan
from bench.records.leases import try_acquire
from bench.records.plan import read_plan
from bench.records.record import Record
from bench.records.states import read_state, run_folder

if TYPE_CHECKING:
    from tests.bench.orchestration.conftest import FakeGroups


@pytest.fixture
def command(
    synthetic_data: Path, tmp_path: Path, groups: FakeGroups, monkeypatch: pytest.MonkeyPatch
) -> tuple[list[str], Path]:
    """The arguments of a command with two runs, and the folder of its records."""
    double = functools.partial(orchestrator.Orchestrator, start_group=groups, capacity=lambda _: 1)
    monkeypatch.setattr(orchestrator, "Orchestrator", double)
    alive = SimpleNamespace(lost=lambda: None)
    monkeypatch.setattr(cluster, "cluster", lambda *_: contextlib.nullcontext(alive))
    monkeypatch.setattr(cluster, "capacity", lambda _: 1)
    experiment = {
        "name": "small",
        "data": {"path": synthetic_data.name},
        "recipe": {"epochs": 1, "batch_size": 8, "learning_rate": 0.1, "resolution": 32},
        "arms": {"none": {"network": {"aux": "none"}}},
        "seeds": [0, 1],
    }
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(experiment), encoding="utf-8")
    records = tmp_path / "records"
    places = ["--records", str(records), "--data", str(synthetic_data.parent)]
    return ["run", str(tmp_path / "small.yaml"), "--no-publish", *places], records


def test_a_bug_in_the_thread_of_a_run_is_reported_and_the_command_ends_with_code_1(
    command: tuple[list[str], Path], groups: FakeGroups, caplog: pytest.LogCaptureFixture
) -> None:
    arguments, records = command
    groups.endings = [RuntimeError("a bug")]
    with caplog.at_level(logging.WARNING):
        assert main(arguments) == 1
    states = [read_state(run_folder(records, entry.key)) for entry in read_plan(records, "small")]
    assert [(state.status, state.error) for state in states] == [
        ("failed", "RuntimeError: a bug"),
        ("finished", None),
    ]
    assert "none s0: RuntimeError: a bug; its traceback is in" in caplog.text


def test_what_cannot_be_recorded_is_logged_as_a_bug_after_the_other_runs(
    command: tuple[list[str], Path], groups: FakeGroups, monkeypatch: pytest.MonkeyPatch
) -> None:
    def abandon(self: Record, error: str) -> None:
        raise OSError("No space left on device")

    arguments, records = command
    monkeypatch.setattr(Record, "abandon", abandon)
    groups.endings = [RuntimeError("a bug")]
    assert main(arguments) == BUG
    (log,) = (records / "logs").glob("bug-*.log")
    assert "could not be recorded" in log.read_text(encoding="utf-8")
    states = [read_state(run_folder(records, entry.key)).status for entry in read_plan(records, "small")]
    assert states == ["interrupted", "finished"]


def test_data_that_changed_since_they_were_prepared_are_refused_before_anything_starts(
    command: tuple[list[str], Path], synthetic_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments, records = command
    shutil.copytree(synthetic_data, tmp_path / "data" / synthetic_data.name)
    with (tmp_path / "data" / synthetic_data.name / "train.beton").open("r+b") as file:
        file.seek(5000)
        file.write(b"\xff\x00\xff")
    assert main([*arguments[:-1], str(tmp_path / "data")]) == WRONG_INPUT
    assert "train.beton: changed or damaged since it was prepared: SHA-256" in capsys.readouterr().err
    assert [entry for entry in read_plan(records, "small") if run_folder(records, entry.key).exists()] == []


def test_a_full_disk_ends_the_command_with_its_sentence_and_the_command_that_resumes(
    command: tuple[list[str], Path], groups: FakeGroups, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments, _ = command
    groups.endings = [Outcome("interrupted", stop_all="the disk /scratch is full")]
    assert main(arguments) == INTERRUPTED
    said = capsys.readouterr()
    assert "stopped (the disk /scratch is full); to resume: deeper run" in " ".join(said.out.split())
    assert "deeper: the disk /scratch is full\n" in said.err, "which the launcher of a SLURM job reads"


def test_a_stop_that_comes_as_the_last_run_ends_leaves_nothing_to_resume(
    command: tuple[list[str], Path],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    arguments, _ = command
    stop_file = tmp_path / "stop"

    def busy(orchestrator: Orchestrator) -> bool:
        if any(thread.is_alive() for thread in orchestrator._threads):
            return True
        stop_file.write_text("time limit", encoding="utf-8")
        return orchestrator.stop_reason is None

    monkeypatch.setattr(Orchestrator, "busy", property(busy))
    assert main([*arguments, "--stop-file", str(stop_file)]) == DONE
    said = capsys.readouterr().out
    assert "stopping (time limit)" in said
    assert "to resume" not in said


def test_runs_that_another_driver_has_are_named_and_the_command_is_not_done(
    command: tuple[list[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    arguments, records = command
    main([*arguments, "--seed", "0"])
    capsys.readouterr()
    waiting = next(entry for entry in read_plan(records, "small") if entry.seed == 1)
    with try_acquire(run_folder(records, waiting.key)) or pytest.fail("nobody holds it"):
        assert main(arguments) == INTERRUPTED
        said = capsys.readouterr().out
        assert f"{waiting.name}: left to the driver on" in said
        assert f"1 run is left to other drivers; once they have ended: {shlex.join(['deeper', *arguments])}" in said
        assert "next:" not in said
        assert main([*arguments, "--part", "1/2"]) == DONE, "a job of a batch ends, and another one does the rest"


def test_a_lost_cluster_stops_the_command_which_says_how_to_go_on(
    command: tuple[list[str], Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments, _ = command
    dead = SimpleNamespace(lost=lambda: "Ray's process raylet died")
    monkeypatch.setattr(cluster, "cluster", lambda *_: contextlib.nullcontext(dead))
    monkeypatch.setattr(Orchestrator, "busy", property(lambda self: self.stop_reason is None))
    assert main(arguments) == INTERRUPTED
    resume = shlex.join(["deeper", *arguments])
    assert f"stopped (Ray's process raylet died); to resume: {resume}" in capsys.readouterr().out


@pytest.fixture
def of_two_kinds(command: tuple[list[str], Path], tmp_path: Path) -> list[str]:
    """The command with a second arm, whose runs have two workers."""
    arguments, _ = command
    path = tmp_path / "small.yaml"
    experiment = yaml.safe_load(path.read_text(encoding="utf-8"))
    experiment["arms"] = {"none": {"network": {"aux": "none"}}, "two": {"resources": {"workers": 2}}}
    path.write_text(yaml.safe_dump(experiment), encoding="utf-8")
    return arguments


def test_runs_of_an_arm_with_more_workers_are_trained_by_others(
    of_two_kinds: list[str], command: tuple[list[str], Path], groups: FakeGroups, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "check_cores", lambda *_: None)
    assert main(of_two_kinds) == DONE
    assert [group.resources.workers for group in groups.started] == [1, 2]
    arms = {entry.key: entry.arm for entry in read_plan(command[1], "small")}
    assert [[arms[key] for key in group.trained] for group in groups.started] == [["none"] * 2, ["two"] * 2]


def test_a_run_of_one_arm_that_does_not_fit_is_refused_before_any_other_trains(
    of_two_kinds: list[str], groups: FakeGroups, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("reproduce.limits.usable_cpus", lambda: 1)
    assert main(of_two_kinds) == WRONG_INPUT
    assert "a run with workers: 2 and cpus_per_worker: 1 needs 2 CPUs, and this process may use 1" in (
        capsys.readouterr().err
    )
    assert main([*of_two_kinds, "--arm", "none"]) == DONE
    assert [group.resources.workers for group in groups.started] == [1]


def test_the_next_commands_name_the_records_unless_they_are_where_they_are_looked_for(
    command: tuple[list[str], Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments, records = command
    assert main(arguments) == DONE
    assert f"next: deeper report small --records {records}, deeper dashboard --records" in capsys.readouterr().out
    monkeypatch.setenv("DEEPER_RECORDS", str(records))
    assert main(arguments) == DONE
    assert "next: deeper report small, deeper dashboard\n" in capsys.readouterr().out
