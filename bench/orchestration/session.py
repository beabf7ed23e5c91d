"""One attempt at a run as its rank 0 performs it: training, with the record and telemetry around it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from bench.machine.environment import environment
from bench.machine.revision import code_diff
from bench.records.record import Record, Recording
from bench.telemetry import Sampler
from reproduce import schema
from reproduce.execution.precision import resolve_precision
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
    """Train a run and record the attempt in `context.folder`. Whatever training raises is recorded and raised again.

    Args:
        config: The run.
        context: Where this rank trains.
        gpus: The run's GPUs on this host, named as in CUDA_VISIBLE_DEVICES; telemetry samples them.
        gpus_elsewhere: How many GPUs the run has on other hosts, where nobody samples them.
        recording: How often telemetry and progress are written.
        stop_reason: Returns why the run was stopped; called only if it was stopped before its end.

    Raises:
        RunBusyError: Another process is training this run (`bench.records.record`).
        RunFinishedError: The run is finished already.
    """
    record = Record(context.folder, progress_every_s=recording.heartbeat_s)
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
        record.end(
            schema.FAILED, error=f"{type(error).__name__}: {error}", metrics=metrics, telemetry=telemetry.summary()
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
