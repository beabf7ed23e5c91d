"""Carries out one attempt at a run on its rank 0: training, its record and its telemetry."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from bench.machine.computation import Computation
from bench.machine.environment import environment
from bench.machine.revision import code_diff
from bench.records.record import Record, Recording
from bench.records.refusals import checkpoint_computation
from bench.telemetry import Sampler
from reproduce import schema
from reproduce.data import DamagedDataError, Manifest, verify_changed
from reproduce.errors import CannotContinueError
from reproduce.execution.kernel_checks import check_kernels
from reproduce.execution.precision import resolve_precision
from reproduce.execution.ranks import failed_elsewhere
from reproduce.export.class_names import class_names
from reproduce.files.disk import DiskFullError, naming_full_disk
from reproduce.native.kernels import BACKENDS
from reproduce.spec import RunConfig
from reproduce.training.checkpoint import drop_before, resume_point
from reproduce.training.interface import RankSetup, TrainingResult
from reproduce.training.loop import train
from reproduce.training.schedules import input_side

log = logging.getLogger(__name__)


def train_and_record(
    config: RunConfig,
    setup: RankSetup,
    *,
    gpus: Sequence[str] = (),
    gpus_elsewhere: int = 0,
    hosts: Sequence[str] = (),
    computation: Computation | None = None,
    workers_s: float | None = None,
    recording: Recording = Recording(),  # noqa: B008  (frozen)
    stop_reason: Callable[[], str | None] = lambda: None,
) -> TrainingResult:
    """Train a run on rank 0 and record the attempt in `setup.folder`.

    Only rank 0 calls this, while all other ranks call `reproduce.training.loop.train` with the same run. An exception
    of the training is recorded as the attempt's failure and raised again. A `CannotContinueError` is recorded as an
    interruption and raised again.
    If the exception says only that another rank has ended, the attempt stays without an end, and the driver records
    the cause.

    Args:
        config: The run.
        setup: The setup of rank 0. Its folder receives the record, and it says when to stop.
        gpus: The run's GPUs on this host, named as in CUDA_VISIBLE_DEVICES. Telemetry samples them; empty on CPUs.
        gpus_elsewhere: Number of the run's GPUs on other hosts, which telemetry does not sample.
        hosts: Names of the hosts of all ranks, by rank; empty if they are not known.
        computation: How all ranks compute, for the record.
        workers_s: Seconds in which the workers were placed, started and joined, for the record; None if they were kept.
        recording: How often telemetry and progress are written.
        stop_reason: Returns why the run was stopped. It is called only if a stop ended the training.

    Returns:
        The result of the training. If the run was stopped, it is recorded as interrupted and `finished` is False.

    Raises:
        RunBusyError: Another process is training this run.
        RunFinishedError: The run is finished already.
        DataError: The data are not those of the run, see `check_data`. Nothing is recorded.
        Exception: Any exception of `train`.
    """
    manifest = check_data(config, setup.data_root)
    precision = resolve_precision(config.recipe.precision, setup.device)
    sides = {input_side(config.recipe, epoch) for epoch in range(config.recipe.epochs)}
    dropped = check_kernels(config.network, sides, setup.device, precision.dtype)
    if computation is not None:
        computation = dataclasses.replace(computation, kernels=_kernels(computation, setup, precision.dtype, dropped))
    resume, damaged = resume_point(setup.folder, config.key)
    if resume is not None and checkpoint_computation(setup.folder) is None:
        log.warning("the attempt before did not record how it was computed, so this is not compared on the resume")
    with Record(setup.folder, progress_every_s=recording.heartbeat_s) as record:  # it releases the lock in any case
        attempt = record.begin(
            config,
            environment=environment(),
            world_size=setup.world_size,
            device=str(setup.device),
            resources={
                "cpus_per_worker": setup.threads,
                "gpus_per_worker": setup.gpu_share if gpus else 0,
                "compile": setup.compiled,
                **precision.describe(),
            },
            computation=computation,
            workers_s=workers_s,
            resume=resume,
            damaged=damaged,
            hosts=hosts,
            kernels_dropped=dropped,
            code_diff=code_diff(),
        )
        telemetry = Sampler(
            setup.folder,
            attempt=attempt,
            devices=gpus,
            share=setup.gpu_share,
            elsewhere=gpus_elsewhere,
            rate_hz=recording.telemetry_hz,
        ).start()
        record.gpu_absent = telemetry.gpu_absent
        record.class_names = class_names(manifest)
        try:
            with naming_full_disk(setup.folder):
                result = train(config, setup, record)
        except CannotContinueError as error:
            with contextlib.suppress(DiskFullError):
                telemetry.stop()
            with contextlib.suppress(DiskFullError):  # a record without an end reads as interrupted, too
                record.end(schema.INTERRUPTED, reason=str(error), telemetry=telemetry.summary())
            raise
        except BaseException as error:
            metrics = telemetry.stop()
            if not failed_elsewhere(error):  # otherwise the driver records why, which only another rank knows
                record.end(
                    schema.FAILED,
                    error=f"{type(error).__name__}: {error}",
                    metrics=metrics,
                    telemetry=telemetry.summary(),
                )
            raise
        metrics = {**result.metrics, **telemetry.stop()}
        record.end(
            schema.FINISHED if result.finished else schema.INTERRUPTED,
            reason=None if result.finished else stop_reason(),
            metrics=metrics,
            telemetry=telemetry.summary(),
        )
        if result.finished:
            drop_before(setup.folder)
    return result


def _kernels(computation: Computation, setup: RankSetup, dtype: torch.dtype, dropped: Sequence[str]) -> str | None:
    """Say which kernels the run uses, in the form of `Computation.kernels`."""
    if not BACKENDS[setup.device.type].takes(dtype):
        return None
    return f"{computation.kernels} and torch" if dropped and computation.kernels == "native" else computation.kernels


def check_data(config: RunConfig, data_root: Path) -> Manifest:
    """Check that the data which this node sees are those of the run's key. Every rank calls it before it trains.

    One rank of a node reads files that have changed since they were last checked, while its other ranks wait for it.

    Returns:
        The manifest of the data.

    Raises:
        DataError: The data set is missing, or it has changed since it was planned or prepared (`DamagedDataError`).
    """
    folder = data_root / config.data.path
    manifest = verify_changed(folder)
    if manifest.hash != config.data_hash:
        raise DamagedDataError(
            f"{folder}: holds another data set than the one of the runs: its hash is {manifest.hash[:12]}, theirs "
            f"{config.data_hash[:12]}; put that one back, or repeat the command to plan runs on the new one"
        )
    return manifest
