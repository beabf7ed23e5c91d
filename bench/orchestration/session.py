"""Carries out one attempt at a run on its rank 0: training, its record and its telemetry."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from bench.machine.environment import environment
from bench.machine.revision import code_diff
from bench.records.record import Record, Recording
from bench.telemetry import Sampler
from reproduce import schema
from reproduce.execution.precision import resolve_precision
from reproduce.execution.ranks import failed_elsewhere
from reproduce.spec import RunConfig
from reproduce.training.checkpoint import resume_point
from reproduce.training.interface import RankSetup, TrainingResult
from reproduce.training.loop import train


def train_and_record(
    config: RunConfig,
    context: RankSetup,
    *,
    gpus: Sequence[str] = (),
    gpus_elsewhere: int = 0,
    recording: Recording = Recording(),  # noqa: B008  (frozen)
    stop_reason: Callable[[], str | None] = lambda: None,
) -> TrainingResult:
    """Train a run on rank 0 and record the attempt in `context.folder`.

    Only rank 0 calls this, while all other ranks call `reproduce.training.loop.train` with the same run. An exception
    of the training is recorded as the attempt's failure and raised again. If it says only that another rank has ended,
    the attempt stays without an end, and the driver records the cause.

    Args:
        config: The run.
        context: The setup of rank 0. Its folder receives the record, and it says when to stop.
        gpus: The run's GPUs on this host, named as in CUDA_VISIBLE_DEVICES. Telemetry samples them; empty on CPUs.
        gpus_elsewhere: Number of the run's GPUs on other hosts, which telemetry does not sample.
        recording: How often telemetry and progress are written.
        stop_reason: Returns why the run was stopped. It is called only if a stop ended the training.

    Returns:
        The result of the training. If the run was stopped, it is recorded as interrupted and `finished` is False.

    Raises:
        RunBusyError: Another process is training this run.
        RunFinishedError: The run is finished already.
        Exception: Any exception of `train`.
    """
    with Record(context.folder, progress_every_s=recording.heartbeat_s) as record:  # it releases the lock in any case
        attempt = record.begin(
            config,
            environment=environment(),
            world_size=context.world_size,
            device=str(context.device),
            resources={
                "cpus_per_worker": context.threads,
                "gpus_per_worker": context.gpu_share if gpus else 0,
                "compile": context.compiled,
                **resolve_precision(config.recipe.precision, context.device).describe(),
            },
            resume=resume_point(context.folder, config.key),
            code_diff=code_diff(),
        )
        telemetry = Sampler(
            context.folder,
            attempt=attempt,
            devices=gpus,
            share=context.gpu_share,
            elsewhere=gpus_elsewhere,
            rate_hz=recording.telemetry_hz,
        ).start()
        record.gpu_absent = telemetry.gpu_absent
        try:
            result = train(config, context, record)
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
        return result
