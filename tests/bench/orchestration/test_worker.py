"""A worker without Ray: which device it takes, and what it makes of the ways in which training ends."""

from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.orchestration import session
from bench.orchestration.worker import LOG_FILE, Attempt, Outcome, RankPlacement, Worker
from bench.records.record import RunFinishedError
from reproduce.data import DamagedDataError, DataError, load_manifest
from reproduce.files.disk import DiskFullError
from reproduce.spec import PlannedRun, ResourcesConfig
from reproduce.training.interface import NonFiniteLossError, RankSetup, TrainingResult


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER"):
        monkeypatch.setenv(name, "set by the test")  # so that what the worker sets is undone
        monkeypatch.delenv(name)


def joined(monkeypatch: pytest.MonkeyPatch, rank: int, *placements: RankPlacement) -> tuple[Worker, dict[str, Any]]:
    """The worker of a rank that has joined, and how it entered the process group."""
    group: dict[str, Any] = {}
    monkeypatch.setattr(torch.distributed, "TCPStore", lambda *where, **_: where)
    monkeypatch.setattr(
        torch.distributed, "init_process_group", lambda *backend, **given: group.update(given, of=backend)
    )
    worker = Worker(rank, ResourcesConfig(workers=len(placements)))
    worker.join(placements, 4711)
    return worker, group


def test_ranks_on_cpus_join_over_gloo_at_the_store_of_rank_0(monkeypatch: pytest.MonkeyPatch) -> None:
    worker, group = joined(monkeypatch, 1, RankPlacement("192.0.2.1", ()), RankPlacement("192.0.2.2", ()))
    assert group["of"] == ("gloo",)
    assert group["store"] == ("192.0.2.1", 4711, 2)
    assert (group["rank"], group["world_size"]) == (1, 2)
    assert worker.device() == torch.device("cpu")
    assert "CUDA_VISIBLE_DEVICES" not in os.environ


def test_a_rank_sees_the_gpus_of_its_host_and_takes_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    placements = [
        RankPlacement("192.0.2.1", ("3",)),
        RankPlacement("192.0.2.1", ("1",)),
        RankPlacement("192.0.2.2", ("0",)),
    ]
    worker, group = joined(monkeypatch, 1, *placements)
    assert group["of"] == ("nccl",)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "3,1"
    assert os.environ["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"
    assert worker.device() == torch.device("cuda", 1)
    assert (worker.gpus, worker.gpus_elsewhere) == (["3", "1"], 1)


def test_a_single_worker_joins_no_process_group(monkeypatch: pytest.MonkeyPatch) -> None:
    worker, group = joined(monkeypatch, 0, RankPlacement("192.0.2.1", ("GPU-fa0e",)))
    assert group == {}
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "GPU-fa0e"
    assert worker.device() == torch.device("cuda", 0)


@pytest.fixture
def train(
    planned: Callable[..., PlannedRun], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[Worker, Outcome]]:
    """Has a worker train a run whose training is a double."""

    def call(training: Callable[[RankSetup], TrainingResult]) -> tuple[Worker, Outcome]:
        # pytest puts files of its own in place of a process's standard error.
        monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(io.FileIO(2, "w", closefd=False), encoding="utf-8"))
        monkeypatch.setattr(session, "train_and_record", lambda config, context, **_: training(context))
        worker = Worker(0, ResourcesConfig())
        return worker, worker.train(Attempt(planned(0).config, tmp_path / "run", tmp_path))

    return call


def raising(error: Exception) -> Callable[[RankSetup], TrainingResult]:
    def training(_: RankSetup) -> TrainingResult:
        raise error

    return training


@pytest.mark.parametrize(
    ("error", "retry"),
    [
        (NonFiniteLossError("epoch 1, step 2"), False),
        (DataError("images.beton: damaged"), False),
        (RunFinishedError("run 4711 is finished"), False),
        (ValueError("not enough values to unpack"), True),
        (RuntimeError("NCCL error"), True),
        (torch.OutOfMemoryError("CUDA out of memory"), True),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_only_failures_that_would_repeat_are_not_tried_again(
    train: Callable[..., tuple[Worker, Outcome]], tmp_path: Path, error: Exception, retry: bool
) -> None:
    _, outcome = train(raising(error))
    assert (outcome.status, outcome.retry) == ("failed", retry)
    assert outcome.error.startswith(f"{type(error).__name__}: {error} (on ")
    log = (tmp_path / "run" / LOG_FILE).read_text(encoding="utf-8")
    assert "Traceback (most recent call last)" in log


def test_what_is_printed_goes_to_the_log_of_the_run(
    train: Callable[..., tuple[Worker, Outcome]], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def training(_: RankSetup) -> TrainingResult:
        print("from Python", file=sys.stderr)
        os.write(1, b"from native code\n")
        return TrainingResult(finished=True, metrics={})

    _, outcome = train(training)
    os.write(1, b"afterwards\n")
    assert outcome == Outcome("finished")
    assert capfd.readouterr().out == "afterwards\n"
    log = (tmp_path / "run" / LOG_FILE).read_text(encoding="utf-8")
    assert "from Python" in log
    assert "from native code" in log


def test_secrets_are_in_neither_the_log_nor_the_outcome(
    train: Callable[..., tuple[Worker, Outcome]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "hunter22")

    def training(_: RankSetup) -> TrainingResult:
        print("the password is hunt", end="", file=sys.stderr)
        print("er22", file=sys.stderr)
        print("no end of a line: hunter22", end="", file=sys.stderr)
        raise RuntimeError("http://me:hunter21@server does not answer\nnor does hunter22")

    _, outcome = train(training)
    log = (tmp_path / "run" / LOG_FILE).read_text(encoding="utf-8")
    assert "the password is ***\n" in log
    assert "no end of a line: ***" in log
    assert "RuntimeError: http://***@server does not answer" in log
    assert "hunter" not in log + outcome.error


def test_a_stop_tells_whether_the_run_has_begun_and_reaches_training(
    train: Callable[..., tuple[Worker, Outcome]],
) -> None:
    def training(setup: RankSetup) -> TrainingResult:
        worker: Worker = setup.stop_requested.__self__  # type: ignore[attr-defined]
        assert not worker.stop("too early"), "nothing to save before the first step"
        assert setup.stop_requested()
        assert worker.stop("terminated")
        return TrainingResult(finished=False, metrics={})

    worker, outcome = train(training)
    assert outcome == Outcome("interrupted")
    assert worker.stop_reason == "terminated"


@pytest.mark.parametrize("error", [DiskFullError("the disk is full"), OSError(errno.ENOSPC, "No space left on device")])
def test_a_full_disk_interrupts_the_run_and_stops_all_others(
    train: Callable[..., tuple[Worker, Outcome]], error: Exception
) -> None:
    _, outcome = train(raising(error))
    assert (outcome.status, outcome.retry) == ("interrupted", False)
    assert "full" in outcome.stop_all


def test_a_node_that_sees_another_data_set_than_the_one_of_the_plan_says_so(
    planned: Callable[..., PlannedRun], synthetic_data: Path
) -> None:
    config = planned(0).config
    moved = config.model_copy(update={"data": config.data.model_copy(update={"path": synthetic_data.name})})
    with pytest.raises(DamagedDataError, match="holds another data set than the one of the runs: its hash is"):
        session.check_data(moved, synthetic_data.parent)
    own = moved.model_copy(update={"data_hash": load_manifest(synthetic_data).hash})
    session.check_data(own, synthetic_data.parent)
